"""The settings of an evaluation."""

import json
from dataclasses import dataclass, field

from ..answers.reading import PARSERS
from ..self_play.settings import check_bounds


@dataclass
class EvaluationArguments:
    """Settings of [`evaluate`] and of `serl-trl eval`; all are checked when they are made.

    Raises:
        ValueError: with the setting, its value and what to set instead.
    """

    model: str = field(metadata={"help": "A model on the Hub, or the folder of one or of a PEFT adapter."})
    data: list[str] = field(
        metadata={
            "help": "Files (.jsonl, .json, .csv, .parquet) or datasets on the Hub (their test split) with instructions "
            "and a column `answer`; `level` and `options` are read where they are."
        }
    )
    num_samples: int = field(default=16, metadata={"help": "Completions sampled for each instruction."})
    output_dir: str = field(default="outputs/eval", metadata={"help": "Where rows and results are written."})
    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature; 1, as in training rollouts. 0 is greedy."}
    )
    top_p: float = field(default=1.0, metadata={"help": "Nucleus mass, in (0, 1]."})
    max_completion_length: int = field(default=1024, metadata={"help": "Longest completion, in tokens."})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})
    answer_format: str = field(
        default="math",
        metadata={"help": "How answers are read: 'math' for numbers and formulas, 'choice' for a letter from A to J."},
    )
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": "Name of a shipped template, or path of a YAML file like it. If unset, that of answer_format."
        },
    )
    chat_template_kwargs: dict | str | None = field(
        default=None, metadata={"help": "As in training, e.g. '{\"enable_thinking\": false}'."}
    )
    data_column: str | None = field(default=None, metadata={"help": "Column of the instructions, if it is not found."})
    use_vllm: bool | None = field(
        default=None, metadata={"help": "Whether vLLM samples. If unset, it does where it is installed."}
    )
    batch_size: int = field(
        default=64, metadata={"help": "Completions at once with transformers, in whole groups; vLLM schedules itself."}
    )
    dtype: str | None = field(
        default=None, metadata={"help": "Type of the weights. If unset, bfloat16 on a GPU and float32 on a CPU."}
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "Share of the GPU's memory that vLLM takes, in (0, 1]."}
    )
    vllm_tensor_parallel_size: int = field(
        default=1, metadata={"help": "GPUs that a copy of the model is split over, with vLLM."}
    )
    vllm_data_parallel_size: int | None = field(
        default=None,
        metadata={
            "help": "Copies of the model that sample at once, with vLLM. If unset, as many as the GPUs can take."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code that comes with the model."})
    compare: str | None = field(
        default=None, metadata={"help": "The results.json of another evaluation, to show differences from."}
    )
    write_card: bool = field(
        default=False, metadata={"help": "Whether to write the results into the model card in the model's folder."}
    )

    def __post_init__(self):
        import torch  # here, since `serl-trl eval --help` waits for neither torch nor TRL

        from ..serl_config import resolve_use_vllm

        if isinstance(self.chat_template_kwargs, str):
            try:
                self.chat_template_kwargs = json.loads(self.chat_template_kwargs)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"chat_template_kwargs is {self.chat_template_kwargs!r}, which is no JSON ({error.msg}). Set it to "
                    "an object."
                ) from error
        if self.answer_format not in PARSERS:
            raise ValueError(f"answer_format is {self.answer_format!r}. Set it to one of {', '.join(PARSERS)}.")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                f"temperature is 0, and all {self.num_samples} completions would be the same. Set num_samples to 1, "
                "or temperature above 0."
            )
        bounds = {
            "num_samples": (1, float("inf")),
            "temperature": (0.0, float("inf")),
            "top_p": (1e-6, 1.0),
            "max_completion_length": (1, float("inf")),
            "seed": (0, float("inf")),
            "batch_size": (1, float("inf")),
            "vllm_gpu_memory_utilization": (1e-6, 1.0),
            "vllm_tensor_parallel_size": (1, float("inf")),
            "vllm_data_parallel_size": (1, float("inf")),
        }
        check_bounds(self, bounds)
        self.use_vllm = resolve_use_vllm(self.use_vllm)
        num_gpus, split = torch.accelerator.device_count(), self.vllm_tensor_parallel_size
        if self.vllm_data_parallel_size is None:
            self.vllm_data_parallel_size = max(num_gpus // split, 1)
        if self.use_vllm and 0 < num_gpus < split * self.vllm_data_parallel_size:
            raise ValueError(
                f"vllm_data_parallel_size is {self.vllm_data_parallel_size} with {split} GPUs for each copy of the model "
                f"(vllm_tensor_parallel_size), and {num_gpus} are here. Set their product to at most that."
            )
        if self.prompt_template is None:
            self.prompt_template = self.answer_format
        if self.dtype is None:
            self.dtype = "float32" if torch.accelerator.current_accelerator() is None else "bfloat16"

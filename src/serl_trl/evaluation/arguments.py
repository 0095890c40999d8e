"""The settings of an evaluation."""

from dataclasses import MISSING, dataclass
from math import inf

from ..answers.formats import default_template
from ..answers.judging import check_format
from ..self_play.settings import LARGEST, as_object, check_bounds, check_choices, check_numbers, setting


@dataclass
class EvaluationArguments:
    """Settings of [`evaluate`] and of `serl-trl eval`; all are checked when they are made.

    Raises:
        ValueError: with the setting, its value and what to set instead.
    """

    model: str = setting(MISSING, "A model on the Hub, or the folder of one or of a PEFT adapter.")
    data: list[str] = setting(
        MISSING,
        "Files (.jsonl, .json, .csv, .parquet) or datasets on the Hub (their test split) with instructions and a column "
        "`answer`; `level` and `options` are read where they are.",
    )
    num_samples: int = setting(16, "Completions sampled for each instruction.")
    output_dir: str = setting("outputs/eval", "Where rows and results are written.")
    temperature: float = setting(1.0, "Sampling temperature; 1, as in training rollouts. 0 is greedy.")
    top_p: float = setting(1.0, "Nucleus mass, in (0, 1].")
    max_completion_length: int = setting(1024, "Longest completion, in tokens.")
    seed: int = setting(0, "Seed of the sampling.")
    answer_format: str = setting(
        "math",
        "How answers are read: 'math' for numbers and formulas, 'choice' for a letter from A to J, 'text' for a few words, "
        "'number', 'json', or a function of yours as 'module:function'.",
    )
    prompt_template: str | None = setting(
        None,
        "Name of a shipped template, or path of a YAML file like it. If unset, that of answer_format; of a function of yours "
        "'text'.",
    )
    chat_template_kwargs: dict | str | None = setting(None, "As in training, e.g. '{\"enable_thinking\": false}'.")
    data_column: str | None = setting(None, "Column of the instructions, if it is not found.")
    use_vllm: bool | None = setting(None, "Whether vLLM samples. If unset, it does where it is installed.")
    batch_size: int = setting(64, "Completions at once with transformers, in whole groups; vLLM schedules itself.")
    dtype: str | None = setting(None, "Type of the weights. If unset, bfloat16 on a GPU and float32 on a CPU.")
    vllm_gpu_memory_utilization: float = setting(0.9, "Share of the GPU's memory that vLLM takes, in (0, 1].")
    vllm_tensor_parallel_size: int = setting(1, "GPUs that a copy of the model is split over, with vLLM.")
    vllm_data_parallel_size: int | None = setting(
        None, "Copies of the model that sample at once, with vLLM. If unset, as many as the GPUs can take."
    )
    trust_remote_code: bool = setting(False, "Whether to run code that comes with the model.")
    compare: str | None = setting(None, "The results.json of another evaluation, to show differences from.")
    write_card: bool = setting(False, "Whether to write the results into the model card in the model's folder.")

    def __post_init__(self):
        import torch  # here, since `serl-trl eval --help` waits for neither torch nor TRL

        from ..serl_config import resolve_use_vllm

        check_numbers(self)
        self.chat_template_kwargs = as_object("chat_template_kwargs", self.chat_template_kwargs)
        self.dtype = self.dtype or ("bfloat16" if torch.accelerator.is_available() else "float32")
        check_choices(self, {"dtype": ("bfloat16", "float16", "float32", "auto")})
        check_format(self.answer_format)
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                f"temperature is 0, and all {self.num_samples} completions would be the same. Set num_samples to 1, "
                "or temperature above 0."
            )
        sizes = ("num_samples", "max_completion_length", "batch_size")
        sizes += ("vllm_tensor_parallel_size", "vllm_data_parallel_size")
        bounds = dict.fromkeys(sizes, (1, inf)) | {"temperature": (0.0, LARGEST), "seed": (0, 2**32 - 1)}
        check_bounds(self, bounds | dict.fromkeys(("top_p", "vllm_gpu_memory_utilization"), (1e-6, 1.0)))
        self.use_vllm = resolve_use_vllm(self.use_vllm)
        num_gpus, split = torch.accelerator.device_count(), self.vllm_tensor_parallel_size
        self.vllm_data_parallel_size = self.vllm_data_parallel_size or max(num_gpus // split, 1)
        if self.use_vllm and 0 < num_gpus < split * self.vllm_data_parallel_size:
            raise ValueError(
                f"vllm_data_parallel_size is {self.vllm_data_parallel_size} with {split} GPUs for each copy of the model "
                f"(vllm_tensor_parallel_size), and {num_gpus} are here. Set their product to at most that."
            )
        self.prompt_template = self.prompt_template or default_template(self.answer_format)

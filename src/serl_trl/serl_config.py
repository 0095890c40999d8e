"""The settings of a run: GRPO's, and one block for each stage of self-play."""

import math
import os
from dataclasses import dataclass, field

from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from .advantages import ESTIMATORS, kl_in_reward
from .self_instruction.quality import BLOCKED_WORDS
from .self_rewarding.answers import PARSERS
from .self_rewarding.difficulty import reachable_pass_rates


INSTRUCTIONS_PER_STEP = 16  # SeRL, its published scripts
INSTRUCTIONS_PER_ITERATION = 2000  # likewise


def resolve_use_vllm(use_vllm: bool | None) -> bool:
    """Return whether vLLM samples: as set, or where it is installed; raise `ValueError` if it is set and missing."""
    installed = is_vllm_available(min_version="0.28.0")
    if use_vllm and not installed:
        raise ValueError(
            "use_vllm is True, but vLLM >= 0.28 is not installed. Run `pip install 'serl-trl[vllm]'`, or set "
            "use_vllm to False for transformers generation."
        )
    return installed if use_vllm is None else use_vllm


def check_bounds(settings, bounds: dict[str, tuple[float, float]]) -> None:
    """Raise `ValueError` for the first setting outside of its bounds, both inclusive; `None` is unset."""
    for name, (lowest, highest) in bounds.items():
        value = getattr(settings, name)
        if value is not None and not lowest <= value <= highest:
            raise ValueError(f"{name} is {value}. Set it within [{lowest}, {highest}].")


@dataclass
class SeRLConfig(GRPOConfig):
    """Configuration of [`SeRLTrainer`]: the parameters of [`~trl.GRPOConfig`] and those of self-play.

    All are checked when the configuration is made, before any model is loaded.

    Raises:
        ValueError: with the setting, its value and what to set instead.

    > [!NOTE]
    > These parameters have other defaults than in [`~trl.GRPOConfig`], those of the paper where it names them:
    > - `learning_rate` 5e-7, `adam_beta2` 0.95, `lr_scheduler_type` cosine down to 10 %, `warmup_steps` 3 %.
    > - `beta` 1e-3, `num_generations` 16, `max_completion_length` 1024.
    > - `gradient_accumulation_steps`: `None`, one optimizer step for each generation batch.
    > - `generation_batch_size`: 16 instructions of `num_generations` completions, if neither
    >   `gradient_accumulation_steps` nor `steps_per_generation` is set.
    > - `per_device_eval_batch_size`: `None`, the completions of one instruction.
    > - `use_vllm`: `None`, vLLM where it is installed, else transformers generation.
    > - `vllm_importance_sampling_mode`: `"token_truncate"`, since whole long sequences would be masked (TRL#4772).
    > - `hub_private_repo` `True`: a repository that `push_to_hub` makes is private.
    > - `max_steps`: if unset, as many as `instructions_per_iteration` instructions can fill.
    """

    # Other defaults than TRL's (SeRL and its published scripts)
    learning_rate: float = field(default=5e-7, metadata={"help": "The initial learning rate for AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up steps; below 1, a share of `max_steps`."})
    beta: float = field(default=0.001, metadata={"help": "KL coefficient; 0 loads no reference model."})
    num_generations: int | None = field(default=16, metadata={"help": "Completions sampled for each instruction."})
    max_completion_length: int | None = field(default=1024, metadata={"help": "Longest completion, in tokens."})
    per_device_eval_batch_size: int | None = field(
        default=None, metadata={"help": "Completions of an evaluation batch. If unset, those of one instruction."}
    )
    gradient_accumulation_steps: int | None = field(
        default=None,
        metadata={"help": "Batches per optimizer step. If unset, one optimizer step for each generation batch."},
    )
    use_vllm: bool | None = field(
        default=None, metadata={"help": "Whether vLLM samples. If unset, it does where it is installed."}
    )
    vllm_importance_sampling_mode: str = field(
        default="token_truncate", metadata={"help": "How the importance ratio of vLLM's samples is bounded."}
    )

    hub_private_repo: bool | None = field(
        default=True,
        metadata={"help": "Whether a new repository on the Hub is private; one that exists stays as it is."},
    )

    # Self-play
    advantage_estimator: str = field(
        default="grpo", metadata={"help": f"How rewards become advantages: {', '.join(ESTIMATORS)}."}
    )
    num_self_play_iterations: int = field(
        default=1,
        metadata={"help": "Iterations, each from the last one's model, with a fresh reference model and kept pool."},
    )
    instructions_per_iteration: int | None = field(
        default=None,
        metadata={
            "help": "Admitted instructions after which an iteration ends; `max_steps` may end it before. If neither "
            f"is set, {INSTRUCTIONS_PER_ITERATION}."
        },
    )
    instruction_source: str = field(
        default="self_instruction",
        metadata={"help": "Whether to train on instructions of the model's own ('self_instruction') or on 'seeds'."},
    )
    label_source: str = field(
        default="majority_vote",
        metadata={"help": "What completions are rewarded for: the 'majority_vote', or the seeds' 'true_answer'."},
    )
    answer_format: str = field(
        default="math",
        metadata={"help": "How answers are read: 'math' for numbers and formulas, 'choice' for a letter from A to J."},
    )

    # Self-instruction
    num_few_shot_examples: int = field(
        default=8, metadata={"help": "Few-shot examples in each request for new instructions."}
    )
    max_kept_examples: int = field(
        default=2, metadata={"help": "Most few-shot examples taken from the kept pool; the rest are seeds."}
    )
    max_kept_instructions: int = field(
        default=2000, metadata={"help": "Size of the kept pool: the latest instructions trained on."}
    )
    instruction_requests: int = field(
        default=4, metadata={"help": "Fewest requests for new instructions in a round; more as the yield demands."}
    )
    instruction_temperature: float = field(default=0.8, metadata={"help": "Temperature of self-instruction, > 0."})
    instruction_top_p: float = field(default=0.95, metadata={"help": "Nucleus mass of self-instruction, in (0, 1]."})
    instruction_presence_penalty: float = field(
        default=2.0, metadata={"help": "Presence penalty of self-instruction, in [-2, 2]."}
    )
    max_instruction_length: int = field(
        default=1024, metadata={"help": "Longest reply to a request for new instructions, in tokens."}
    )
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": "Name of a shipped template, or path of a YAML file like it. If unset, that of answer_format."
        },
    )
    min_words: int = field(default=4, metadata={"help": "Fewest words of an instruction."})
    max_words: int = field(default=150, metadata={"help": "Most words of an instruction."})
    blocked_words: list[str] = field(
        default_factory=lambda: list(BLOCKED_WORDS), metadata={"help": "Whole words that reject an instruction."}
    )
    ascii_only: bool = field(
        default=True, metadata={"help": "Whether an instruction must start with an ASCII character."}
    )
    diversity_threshold: float = field(
        default=0.7, metadata={"help": "Highest ROUGE-L F1 with an earlier instruction, in [0, 1]; 1 lets all pass."}
    )

    # Self-rewarding
    min_pass_rate: float = field(
        default=0.2, metadata={"help": "Lowest share of a group that gives the majority answer, inclusive."}
    )
    max_pass_rate: float = field(
        default=0.8, metadata={"help": "Highest share of a group that gives the majority answer, inclusive."}
    )
    max_rounds: int = field(
        default=16, metadata={"help": "Most rounds of self-instruction for a generation batch; then an error."}
    )

    def __post_init__(self):
        self._check_choices()
        self._resolve_engine()
        self._resolve_generation_batch()
        if self.per_device_eval_batch_size is None:
            # With one instruction a batch, TRL's mean over batches is the mean over instructions.
            self.per_device_eval_batch_size = self.num_generations_eval or self.num_generations
        if self.prompt_template is None:
            self.prompt_template = self.answer_format
        if self.advantage_estimator == "dr_grpo":
            self.scale_rewards, self.loss_type = "none", "dr_grpo"
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        super().__post_init__()
        self._resolve_length()
        self._check_rollouts()
        self._check_self_play()
        self._check_push()

    def _check_choices(self):
        choices = {
            "advantage_estimator": ESTIMATORS,
            "instruction_source": ("self_instruction", "seeds"),
            "label_source": ("majority_vote", "true_answer"),
            "answer_format": tuple(PARSERS),
        }
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}. Set it to one of {', '.join(values)}.")
        if self.label_source == "true_answer" and self.instruction_source != "seeds":
            raise ValueError(
                "label_source is 'true_answer', and the model's own instructions have none. Set instruction_source to "
                "'seeds', or label_source to 'majority_vote'."
            )
        if kl_in_reward(self.advantage_estimator):
            if self.use_liger_kernel:
                raise ValueError(
                    f"use_liger_kernel takes one advantage a completion, and {self.advantage_estimator} gives one a "
                    "token. Set use_liger_kernel to False."
                )
            if self.multi_objective_aggregation != "sum_then_normalize":
                raise ValueError(
                    f"multi_objective_aggregation is {self.multi_objective_aggregation!r}, which is GRPO's. Leave it "
                    f"at 'sum_then_normalize' with {self.advantage_estimator}."
                )

    def _resolve_engine(self):
        self.use_vllm = resolve_use_vllm(self.use_vllm)
        if not self.use_vllm and self.use_transformers_continuous_batching and self.instruction_presence_penalty:
            raise ValueError(
                f"instruction_presence_penalty is {self.instruction_presence_penalty}, which continuous batching of "
                "transformers can't apply. Set it to 0, or use_transformers_continuous_batching to False."
            )

    def _resolve_generation_batch(self):
        generation_unset = self.generation_batch_size is None and self.steps_per_generation is None
        if generation_unset and self.gradient_accumulation_steps is None:
            self.generation_batch_size = INSTRUCTIONS_PER_STEP * self.num_generations
        if self.generation_batch_size is not None and self.generation_batch_size % self.num_generations:
            raise ValueError(
                f"generation_batch_size is {self.generation_batch_size}, which num_generations "
                f"({self.num_generations}) doesn't divide. Set it to a multiple: each group is trained whole."
            )
        if self.gradient_accumulation_steps is None:
            # Launchers set WORLD_SIZE; TrainingArguments knows its own only after it has been checked.
            batch = self.per_device_train_batch_size * int(os.environ.get("WORLD_SIZE", 1))
            steps = self.steps_per_generation or self.generation_batch_size // batch
            self.gradient_accumulation_steps = max(steps, 1)

    def _resolve_length(self):
        if self.max_steps > 0:
            return
        if self.max_steps != -1:
            raise ValueError(
                f"max_steps is {self.max_steps}. Set it above 0, or leave it out for the length that "
                "instructions_per_iteration gives."
            )
        if self.instructions_per_iteration is None:
            self.instructions_per_iteration = INSTRUCTIONS_PER_ITERATION
        # The longest it can take: every instruction that is admitted is also trained on.
        groups = self.generation_batch_size // self.num_generations
        batches = math.ceil(self.instructions_per_iteration / groups) * self.steps_per_generation * self.num_iterations
        self.max_steps = math.ceil(batches / self.gradient_accumulation_steps)

    def _check_rollouts(self):
        filters = {"top_p": (self.top_p, 1.0), "top_k": (self.top_k, 0), "min_p": (self.min_p or 0.0, 0.0)}
        for name, (value, neutral) in filters.items():
            if value != neutral:
                raise ValueError(
                    f"{name} is {value}, which biases the importance ratio of the rollouts (TRL#6789). Leave it at "
                    f"{neutral}; for self-instruction set instruction_temperature and instruction_top_p."
                )
        own = {
            "seed",
            "n",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "presence_penalty",
            "max_tokens",
            "max_new_tokens",
        }
        for name in sorted(own & set(self.generation_kwargs or {})):
            raise ValueError(
                f"generation_kwargs sets {name!r}: a group's completions would be equal or biased, or a setting of this "
                "configuration silently overridden. Remove it."
            )

    def _check_self_play(self):
        if not 0.0 <= self.min_pass_rate < self.max_pass_rate <= 1.0:
            raise ValueError(
                f"min_pass_rate and max_pass_rate are {self.min_pass_rate} and {self.max_pass_rate}. Set them so that "
                "0 <= min_pass_rate < max_pass_rate <= 1, e.g. to 0.2 and 0.8."
            )
        if not reachable_pass_rates(self.num_generations, self.min_pass_rate, self.max_pass_rate):
            rates = ", ".join(
                f"{agreeing / self.num_generations:.3g}" for agreeing in range(2, self.num_generations + 1)
            )
            raise ValueError(
                f"No vote of num_generations={self.num_generations} completions has a pass rate in "
                f"[{self.min_pass_rate}, {self.max_pass_rate}]: they can be {rates}. Raise num_generations or widen "
                "the bounds."
            )
        if not 0 <= self.max_kept_examples <= self.num_few_shot_examples or self.num_few_shot_examples < 1:
            raise ValueError(
                f"max_kept_examples is {self.max_kept_examples} with num_few_shot_examples="
                f"{self.num_few_shot_examples}. Set 0 <= max_kept_examples <= num_few_shot_examples, e.g. 2 and 8."
            )
        bounds = {
            "diversity_threshold": (0.0, 1.0),
            "instruction_top_p": (1e-6, 1.0),
            "instruction_temperature": (1e-6, float("inf")),
            "instruction_presence_penalty": (-2.0, 2.0),
            "instruction_requests": (1, float("inf")),
            "max_instruction_length": (1, float("inf")),
            "max_kept_instructions": (0, float("inf")),
            "max_rounds": (1, float("inf")),
            "num_self_play_iterations": (1, float("inf")),
            "instructions_per_iteration": (1, float("inf")),
            "min_words": (1, self.max_words),
        }
        check_bounds(self, bounds)

    def _check_push(self):
        # Trainer and TRL push these as they are. What the model writes may hold a seed, word for word; a push of
        # instructions leaves such out.
        if self.push_to_hub and self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                f"hub_strategy is {self.hub_strategy.value!r}, and checkpoints hold instructions, which may hold seeds, "
                "which are never pushed. Set hub_strategy to 'every_save' or 'end'."
            )
        if self.log_completions and (self.push_to_hub or self.log_completions_hub_repo):
            raise ValueError(
                "log_completions is True, and the logged prompts would be pushed, which may hold seeds, which never are. "
                "Set log_completions to False, or push_to_hub to False and leave log_completions_hub_repo out."
            )

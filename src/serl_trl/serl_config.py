"""The settings of a run: GRPO's, and those of self-play."""

import math
import os
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real

from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from .bounds import BOUNDS, CHOICES, UNUSED
from .hub.privacy import check_privacy
from .self_play.settings import (
    INSTRUCTIONS_PER_STEP,
    METHODS,
    SelfPlaySettings,
    as_object,
    check_bounds,
    check_choices,
    check_numbers,
    check_whole_groups,
    setting,
)
from .training.advantages import ESTIMATORS, kl_in_advantage


INSTRUCTIONS_PER_ITERATION = 2000  # SeRL, its published scripts
_OBJECTS = """
chat_template_kwargs generation_kwargs gradient_checkpointing_kwargs lr_scheduler_kwargs model_init_kwargs
transformers_continuous_batching_config
""".split()


def resolve_use_vllm(use_vllm: bool | None) -> bool:
    """Return whether vLLM samples: as set, or where it is installed; raise `ValueError` if it is set and missing."""
    installed = is_vllm_available(min_version="0.28.0")
    if use_vllm and not installed:
        raise ValueError(
            "use_vllm is True, but vLLM >= 0.28 is not installed. Run `pip install 'serl-trl[vllm]'`, or set "
            "use_vllm to False for transformers generation."
        )
    return installed if use_vllm is None else use_vllm


@dataclass
class SeRLConfig(SelfPlaySettings, GRPOConfig):
    """Configuration of [`SeRLTrainer`]: the parameters of [`~trl.GRPOConfig`] and of [`SelfPlaySettings`].

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
    > - `per_device_eval_batch_size` has no effect: an evaluation samples all instructions in one call.
    > - `metric_for_best_model`: pass@1.
    > - `use_vllm`: `None`, vLLM where it is installed, else transformers generation.
    > - `vllm_importance_sampling_mode`: `"token_truncate"`, since whole long sequences would be masked (TRL#4772).
    > - `hub_private_repo` `True`: a repository that `push_to_hub` makes is private.
    > - `method`: `"trusted"`; in [`SelfPlaySettings`], without a trainer, it is `"paper"`.
    > - `max_steps`: if unset, as many as `instructions_per_iteration` instructions can fill.
    """

    # Other defaults than TRL's (SeRL and its published scripts)
    learning_rate: float = setting(5e-7, "The initial learning rate for AdamW.")
    adam_beta2: float = setting(0.95, "Beta2 of AdamW.")
    lr_scheduler_type: str = setting("cosine_with_min_lr", "Learning-rate schedule.")
    warmup_steps: float = setting(0.03, "Warm-up steps; below 1, a share of `max_steps`.")
    beta: float = setting(0.001, "KL coefficient; 0 loads no reference model.")
    gradient_accumulation_steps: int | None = setting(
        None, "Batches per optimizer step. If unset, one optimizer step for each generation batch."
    )
    use_vllm: bool | None = setting(None, "Whether vLLM samples. If unset, it does where it is installed.")
    vllm_importance_sampling_mode: str = setting(
        "token_truncate", "How the importance ratio of vLLM's samples is bounded."
    )

    hub_private_repo: bool | None = setting(
        True, "Whether a new repository on the Hub is private; one that exists stays as it is."
    )

    # Self-play
    advantage_estimator: str = setting("grpo", f"How rewards become advantages: {', '.join(ESTIMATORS)}.")
    instructions_per_iteration: int | None = setting(
        None,
        "Admitted instructions after which training ends; `max_steps` may end it before. If neither is "
        f"set, {INSTRUCTIONS_PER_ITERATION}.",
    )
    instruction_source: str = setting(
        "self_instruction", "Whether to train on instructions of the model's own ('self_instruction') or on 'seeds'."
    )
    label_source: str = setting(
        "majority_vote",
        "What completions are rewarded for: the 'majority_vote', the seeds' 'true_answer', or 'true_answer_or_vote', the true "
        "answer where a seed has one and the vote elsewhere.",
    )

    def __post_init__(self):
        self._check_values()
        self._check_choices()
        self._resolve_engine()
        self._resolve_generation_batch()
        self._resolve_estimator()
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        follows_metric = self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        if (self.load_best_model_at_end or follows_metric) and self.metric_for_best_model is None:
            self.metric_for_best_model = "pass@1"  # Trainer's default is the loss, which no evaluation here has
        if follows_metric and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"mode": "max"}  # of accuracy
        # An evaluation samples all prompts at once; TRL only asks that this is a multiple of a group.
        self.per_device_eval_batch_size = self.num_generations_eval or self.num_generations
        GRPOConfig.__post_init__(self)
        SelfPlaySettings.__post_init__(self)
        self._resolve_length()
        self._check_rollouts()
        check_privacy(self)

    def __getstate__(self) -> dict:
        """Leave the token out of every file that the settings are written to."""
        return self.__dict__ | {"hub_token": None}

    def __deepcopy__(self, memo: dict) -> "SeRLConfig":
        """Return a copy with the token."""
        copied = object.__new__(type(self))
        copied.__dict__ = deepcopy(self.__dict__, memo)
        return copied

    def _check_values(self):
        check_numbers(self)
        check_bounds(self, BOUNDS)
        for name in _OBJECTS:
            as_object(name, getattr(self, name))
        for name, advice in UNUSED.items():
            if getattr(self, name) != getattr(GRPOConfig, name):
                raise ValueError(f"{name} is {getattr(self, name)!r}, which has no effect in self-play. {advice}")
        if self.sync_ref_model:
            raise ValueError(
                "sync_ref_model is True, and no checkpoint holds the reference model: a resumed run would take the start "
                "for it. Leave it out."
            )
        if self.output_dir == "":
            raise ValueError("output_dir is empty. Set it to a folder.")
        weights = self.reward_weights or []
        if not (isinstance(weights, list | tuple) and all(isinstance(w, Real) and math.isfinite(w) for w in weights)):
            raise ValueError(f"reward_weights is {weights!r}. Set it to a list of finite numbers.")

    def _check_choices(self):
        choices = {
            "advantage_estimator": ESTIMATORS,
            "instruction_source": ("self_instruction", "seeds"),
            "label_source": ("majority_vote", "true_answer", "true_answer_or_vote"),
            "method": (None, *METHODS),
        }
        check_choices(self, choices | CHOICES)
        if self.label_source == "true_answer":
            for name, unused in {
                "method": "paper",
                "confirm_majority": False,
                "evidence_seeds": 0,
                "sentinel_checks": 0,
            }.items():
                if getattr(self, name) not in (None, unused):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, and label_source is 'true_answer': there is no majority to "
                        f"trust. Leave {name} out."
                    )
            self.method = "paper"
        # The plain loop alone takes the paper's: evidence and the sentinel are the trainer's.
        self.method = self.method or "trusted"
        if self.label_source == "true_answer" and self.instruction_source != "seeds":
            raise ValueError(
                "label_source is 'true_answer', and the model's own instructions have none. Set instruction_source to "
                "'seeds', or label_source to 'majority_vote' or 'true_answer_or_vote'."
            )
        trains_on_seeds = self.instruction_source == "seeds" or self.seed_share
        if self.label_source == "true_answer_or_vote" and not trains_on_seeds:
            raise ValueError(
                "label_source is 'true_answer_or_vote', and no seeds are trained on. Set seed_share above 0, e.g. to 0.25, "
                "or instruction_source to 'seeds', or leave label_source out."
            )
        if self.instruction_source == "seeds" and self.seed_share:
            raise ValueError(
                f"seed_share is {self.seed_share}, and instruction_source is 'seeds': all instructions are. Leave one out."
            )

    def _resolve_estimator(self):
        estimator = self.advantage_estimator
        used = {}  # setting -> its values that the estimator does not overrule
        if estimator == "dr_grpo":
            used = {"loss_type": (GRPOConfig.loss_type, "dr_grpo"), "scale_rewards": ("group", True, "none", False)}
        elif kl_in_advantage(estimator):
            used = {"scale_rewards": ("group", True), "multi_objective_aggregation": ("sum_then_normalize",)}
        for name, values in used.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, which {estimator} has no use for. Leave it at {values[0]!r}, or "
                    "set advantage_estimator to 'grpo'."
                )
        if estimator == "dr_grpo":
            self.scale_rewards, self.loss_type = "none", "dr_grpo"

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
        if self.generation_batch_size is not None:
            check_whole_groups(self.generation_batch_size, self.num_generations)
        if self.gradient_accumulation_steps is None:
            # Launchers set WORLD_SIZE; TrainingArguments knows its own only after it has been checked.
            batch = self.per_device_train_batch_size * int(os.environ.get("WORLD_SIZE", 1))
            steps = self.steps_per_generation or self.generation_batch_size // batch
            self.gradient_accumulation_steps = max(steps, 1)

    def _resolve_length(self):
        if self.max_steps > 0:
            return
        if self.max_steps == 0:
            raise ValueError(
                "max_steps is 0. Set it above 0, or leave it out for the length that instructions_per_iteration gives."
            )
        if self.instructions_per_iteration is None:
            self.instructions_per_iteration = INSTRUCTIONS_PER_ITERATION
        # The longest it can take: every instruction that is admitted is also trained on.
        cycle = self.steps_per_generation * self.num_iterations
        batches = math.ceil(self.instructions_per_iteration / self.num_groups) * cycle
        self.max_steps = math.ceil(batches / self.gradient_accumulation_steps)

    def _check_rollouts(self):
        top_k = 0 if self.top_k in (None, -1) else self.top_k  # vLLM's way to say that it is off
        filters = {"top_p": (self.top_p, 1.0), "top_k": (top_k, 0), "min_p": (self.min_p or 0.0, 0.0)}
        filters["repetition_penalty"] = (self.repetition_penalty, 1.0)
        for name, (value, neutral) in filters.items():
            if value != neutral:
                raise ValueError(
                    f"{name} is {value}, which biases the importance ratio of the rollouts (TRL#6789). Leave it at "
                    f"{neutral}; for self-instruction set instruction_temperature and instruction_top_p."
                )
        own = set("seed n temperature top_p top_k min_p max_tokens max_new_tokens".split())
        own |= {"presence_penalty", "frequency_penalty", "repetition_penalty"}
        for name in sorted(own & set(self.generation_kwargs or {})):
            raise ValueError(
                f"generation_kwargs sets {name!r}: a group's completions would be equal or biased, or a setting of this "
                "configuration silently overridden. Remove it."
            )

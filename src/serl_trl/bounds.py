"""What the settings of TRL and Trainer may be, where they take anything and fail later, or not at all."""

from math import inf

from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames, trainer_log_levels

from .self_play.settings import LARGEST


_ABOVE_ZERO = (1e-6, LARGEST)
_BELOW_ONE = 1 - 1e-9
_COUNT = (1, inf)
_SHARE = (0.0, 1.0)
_WEIGHT = (0.0, LARGEST)

# Lowest and highest value, both inclusive. `LARGEST` leaves infinity out; where a bound is infinite, it means "no limit".
BOUNDS = {
    # Trainer
    "adam_beta1": (0.0, _BELOW_ONE),
    "adam_beta2": (0.0, _BELOW_ONE),
    "adam_epsilon": _WEIGHT,
    "dataloader_num_workers": (0, inf),
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "eval_delay": _WEIGHT,
    "eval_steps": _WEIGHT,
    "gradient_accumulation_steps": _COUNT,
    "label_smoothing_factor": _SHARE,
    "learning_rate": _WEIGHT,
    "logging_steps": _WEIGHT,
    "max_grad_norm": (0.0, inf),
    "max_steps": (-1, 10**6),  # a placeholder row for each group
    "neftune_noise_alpha": _WEIGHT,
    "per_device_train_batch_size": _COUNT,
    "save_steps": _WEIGHT,
    "save_total_limit": (0, inf),
    "torch_empty_cache_steps": _COUNT,
    "warmup_steps": _WEIGHT,
    "weight_decay": _WEIGHT,
    # GRPO and self-play
    "beta": _WEIGHT,
    "delta": (0.0, inf),
    "entropy_coef": (-LARGEST, LARGEST),
    "entropy_coef_delta": _WEIGHT,
    "entropy_coef_max": _WEIGHT,
    "entropy_coef_min": (-LARGEST, LARGEST),
    "entropy_target": _WEIGHT,
    "epsilon": (0.0, inf),
    "epsilon_high": (0.0, inf),
    "instructions_per_iteration": _COUNT,
    "num_completions_to_print": (0, inf),
    "num_generations": (2, inf),
    "num_generations_eval": _COUNT,
    "num_iterations": _COUNT,
    "off_policy_mask_threshold": (0.0, inf),
    "ref_model_mixup_alpha": _SHARE,
    "ref_model_sync_steps": _COUNT,
    "router_aux_loss_coef": _WEIGHT,
    "sapo_temperature_neg": _ABOVE_ZERO,
    "sapo_temperature_pos": _ABOVE_ZERO,
    "steps_per_generation": _COUNT,
    "temperature": _ABOVE_ZERO,
    "top_entropy_quantile": _SHARE,
    "vespo_k_neg": _WEIGHT,
    "vespo_k_pos": _WEIGHT,
    "vespo_lambda_neg": _WEIGHT,
    "vespo_lambda_pos": _WEIGHT,
    # vLLM
    "vllm_group_port": (1, 65535),
    "vllm_gpu_memory_utilization": (1e-6, 1.0),
    "vllm_importance_sampling_cap": (0.0, inf),
    "vllm_importance_sampling_clip_max": (0.0, inf),
    "vllm_importance_sampling_clip_min": (0.0, inf),
    "vllm_max_model_length": _COUNT,
    "vllm_server_port": (1, 65535),
    "vllm_server_timeout": (0.0, inf),
    "vllm_tensor_parallel_size": _COUNT,
}


def _values(enumeration) -> tuple[str, ...]:
    return tuple(member.value for member in enumeration)


CHOICES = {
    "eval_strategy": _values(IntervalStrategy),
    "hub_strategy": _values(HubStrategy),
    "importance_sampling_level": ("token", "sequence"),
    "log_level": tuple(trainer_log_levels),
    "log_level_replica": tuple(trainer_log_levels),
    "logging_strategy": _values(IntervalStrategy),
    "loss_type": ("bnpo", "cispo", "dapo", "dr_grpo", "grpo", "luspo", "sapo", "vespo"),
    "lr_scheduler_type": _values(SchedulerType),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "optim": _values(OptimizerNames),
    "save_strategy": _values(SaveStrategy),
    "scale_rewards": ("group", "batch", "none", True, False),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
}

# Settings that TRL reads from its own data: here nothing would come of them. With what to set instead.
UNUSED = {
    "data_seed": "Instructions are drawn by `seed`. Leave it out.",
    "num_train_epochs": "A run has no epochs. Set max_steps or instructions_per_iteration instead.",
    "shuffle_dataset": "Seeds are always drawn at random, by `seed`. Leave it out.",
}

"""What the settings of TRL and Trainer may be, where they take anything and fail later, or not at all."""

from math import inf

from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames, trainer_log_levels

from .self_play.settings import LARGEST


# Lowest and highest value, both inclusive, and what it holds for. `LARGEST` leaves infinity out; an infinite bound is none.
_NAMES = {
    (0, 1 - 1e-9): "adam_beta1 adam_beta2",
    (0, LARGEST): """
        adam_epsilon beta entropy_coef_delta entropy_coef_max entropy_target eval_delay eval_steps
        learning_rate logging_steps neftune_noise_alpha router_aux_loss_coef save_steps vespo_k_neg
        vespo_k_pos vespo_lambda_neg vespo_lambda_pos warmup_steps weight_decay
    """,
    (0, inf): """
        dataloader_num_workers delta epsilon epsilon_high max_grad_norm num_completions_to_print
        off_policy_mask_threshold save_total_limit vllm_importance_sampling_cap
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_server_timeout
    """,
    (1, inf): """
        dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout eval_accumulation_steps
        gradient_accumulation_steps instructions_per_iteration num_generations_eval num_iterations
        per_device_train_batch_size ref_model_sync_steps steps_per_generation torch_empty_cache_steps
        vllm_max_model_length vllm_tensor_parallel_size
    """,
    (0, 1): "label_smoothing_factor ref_model_mixup_alpha top_entropy_quantile",
    (-1, 10**6): "max_steps",  # a placeholder row for each group
    (-LARGEST, LARGEST): "entropy_coef entropy_coef_min",
    (2, inf): "num_generations",
    (1e-6, LARGEST): "sapo_temperature_neg sapo_temperature_pos temperature",
    (1, 65535): "vllm_group_port vllm_server_port",
    (1e-6, 1): "vllm_gpu_memory_utilization",
}
BOUNDS = {name: bounds for bounds, names in _NAMES.items() for name in names.split()}


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

"""A setting that can't be used is named when the configuration is made; what TRL allows is allowed."""

from math import inf, nan

import numpy as np
import pytest
from conftest import TINY_SETTINGS, tiny_config

from serl_trl import SeRLConfig
from serl_trl.bounds import BOUNDS, UNUSED
from serl_trl.self_play.settings import SelfPlaySettings, number_settings


# Numbers that would train nothing or NaN without a word, or end in a traceback of TRL, Trainer or torch.
NUMBERS = [
    ("beta", nan),  # a model of NaN is saved
    ("beta", -0.1),
    ("beta", inf),
    ("weight_decay", nan),
    ("weight_decay", -1.0),
    ("learning_rate", inf),
    ("learning_rate", nan),
    ("learning_rate", -1e-5),
    ("adam_beta1", 1.0),
    ("adam_beta2", -0.1),
    ("adam_epsilon", -1e-8),
    ("adam_epsilon", nan),
    ("max_grad_norm", nan),
    ("max_grad_norm", -1.0),
    ("warmup_steps", -1),
    ("warmup_steps", nan),
    ("num_iterations", -1),  # the start model is saved unchanged
    ("num_iterations", 0),
    ("epsilon", -0.2),
    ("epsilon_high", nan),
    ("delta", -1.0),
    ("save_steps", -1),
    ("save_steps", inf),
    ("logging_steps", -1),
    ("eval_steps", -1),
    ("save_total_limit", -1),  # Trainer would keep all
    ("max_steps", 0),
    ("max_steps", -2),
    ("max_steps", 10**9),  # a row of the data loader for each group
    ("num_generations", 0),  # a division by zero
    ("num_generations", 1),
    ("num_generations_eval", -1),
    ("gradient_accumulation_steps", 0),
    ("steps_per_generation", 0),
    ("per_device_train_batch_size", 0),
    ("generation_batch_size", -4),
    ("max_completion_length", 0),
    ("max_instruction_length", 0),
    ("temperature", 0.0),
    ("temperature", -1.0),
    ("temperature", nan),
    ("temperature", inf),
    ("instruction_temperature", inf),
    ("instruction_temperature", nan),
    ("top_p", nan),
    ("min_pass_rate", nan),
    ("diversity_threshold", nan),
    ("nearness_level", nan),
    ("nearness_level", 101.0),
    ("seed", -1),
    ("seed", 2**32),  # NumPy takes none as large
    ("vllm_gpu_memory_utilization", 1.5),
    ("vllm_gpu_memory_utilization", nan),
    ("vllm_max_model_length", 0),
    ("vllm_tensor_parallel_size", 0),
    ("vllm_server_port", 70000),
    ("vllm_importance_sampling_clip_max", nan),
    ("top_entropy_quantile", 1.5),
    ("sapo_temperature_pos", 0.0),
    ("ref_model_sync_steps", 0),
    ("instructions_per_iteration", 0),
    ("reward_weights", [nan]),
    ("reward_weights", 1.0),
]
# What YAML gives for `max_steps:`, `[3]`, `"3"` and so on.
KINDS = [
    ("max_steps", None),
    ("num_generations", None),
    ("num_generations", [4]),
    ("num_generations", True),
    ("num_generations", 4.5),
    ("max_completion_length", None),
    ("learning_rate", "1e-5"),
    ("learning_rate", None),
    ("beta", {"value": 0.1}),
    ("bf16", "yes"),
    ("use_vllm", "false"),
    ("max_rounds", "16"),
]
CHOICES = [
    ("loss_type", "foo"),
    ("optim", "foo"),
    ("lr_scheduler_type", "foo"),
    ("eval_strategy", False),  # YAML's `no`
    ("save_strategy", "foo"),
    ("importance_sampling_level", "foo"),
    ("scale_rewards", "foo"),
    ("vllm_mode", "foo"),
    ("vllm_importance_sampling_mode", "foo"),
    ("log_level", "foo"),
    ("chat_template_kwargs", "[1]"),
    ("chat_template_kwargs", "{enable"),
    ("generation_kwargs", [1]),
    ("lr_scheduler_kwargs", "0.1"),
    ("output_dir", ""),
]
# TRL uses them, and here nothing would come of them.
WITHOUT_EFFECT = [
    ("num_train_epochs", 1),
    ("data_seed", 7),
    ("shuffle_dataset", False),
    ("repetition_penalty", 1.1),  # it would bias the importance ratio, as top_p would
]


@pytest.mark.parametrize(("name", "value"), [*NUMBERS, *KINDS, *CHOICES, *WITHOUT_EFFECT])
def test_a_setting_that_can_not_be_used_is_named(tmp_path, name, value):
    changes = {"output_dir": str(tmp_path)} | TINY_SETTINGS | {name: value}
    if name == "steps_per_generation":
        del changes["gradient_accumulation_steps"]
    with pytest.raises(ValueError, match=rf"^{name} (is|and max_pass_rate are) "):
        SeRLConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": 0},  # no clipping
        {"max_grad_norm": inf},
        {"epsilon_high": inf},  # no upper bound
        {"delta": inf, "epsilon_high": 0.3},
        {"save_steps": 0.1, "eval_steps": 0.5, "logging_steps": 0.2},  # shares of the run
        {"warmup_steps": 2.5},
        {"learning_rate": 1, "weight_decay": 0},
        {"temperature": 2, "num_generations_eval": 1},
        {"scale_rewards": False},
        {"vllm_importance_sampling_clip_max": None, "vllm_importance_sampling_clip_min": 0.5},
        {"lr_scheduler_kwargs": '{"min_lr_rate": 0.2}', "lr_scheduler_type": "cosine_with_min_lr"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"entropy_coef": -0.01},  # less entropy
        {"save_total_limit": 0, "num_completions_to_print": 0},  # all of them
        {"top_k": -1},  # vLLM's way to say that it is off
        {"beta": np.float32(0.1), "max_steps": np.int64(3), "use_cpu": np.bool_(True)},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1},  # of pass@1
    ],
)
def test_what_trl_allows_is_allowed(tmp_path, changes):
    tiny_config(tmp_path, **changes)


def test_every_number_has_bounds(tmp_path):
    numbers = {name for name, types in number_settings(tiny_config(tmp_path)).items() if bool not in types}
    own = set(vars(SelfPlaySettings)["__annotations__"])
    fixed = {"top_p", "top_k", "min_p", "repetition_penalty"}  # at their neutral values
    unused = {"local_rank", "per_device_eval_batch_size", "max_tool_calling_iterations"}
    assert numbers == (numbers & own) | set(BOUNDS) | fixed | unused | (numbers & set(UNUSED))

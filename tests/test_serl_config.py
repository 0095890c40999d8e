import pytest
import torch
from conftest import tiny_config

from serl_trl import SeRLConfig
from serl_trl.answers.formats import FORMATS
from serl_trl.self_play.prompt import load_template


def test_defaults_are_the_papers(tmp_path):
    config = SeRLConfig(str(tmp_path), max_steps=10, use_cpu=True, use_vllm=False)
    assert (config.generation_batch_size, config.num_generations) == (256, 16)  # 16 instructions
    # One optimizer step for each generation batch: 256 completions in batches of 8.
    assert (config.steps_per_generation, config.gradient_accumulation_steps) == (32, 32)
    assert config.vllm_importance_sampling_mode == "token_truncate"
    assert (config.learning_rate, config.adam_beta2, config.beta) == (5e-7, 0.95, 0.001)
    assert config.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert config.per_device_eval_batch_size == 16  # one instruction


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # TRL's rule, where the user says how batches accumulate: (generation batch, steps per generation, accumulation)
        ({"gradient_accumulation_steps": 2}, (8, 2, 2)),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": None}, (16, 4, 4)),
        ({"generation_batch_size": 16, "gradient_accumulation_steps": None}, (16, 4, 4)),
        ({"generation_batch_size": 16, "gradient_accumulation_steps": 2}, (16, 4, 2)),
    ],
)
def test_schedule(tmp_path, given, expected):
    config = tiny_config(tmp_path, **given)
    schedule = (config.generation_batch_size, config.steps_per_generation, config.gradient_accumulation_steps)
    assert schedule == expected


@pytest.mark.parametrize(
    ("given", "length"),
    [
        ({"max_steps": 7}, (7, None)),
        # unset: 2,000 instructions, two in each generation batch, if every one is trained on
        ({"max_steps": -1}, (1000, 2000)),
        ({"max_steps": -1, "instructions_per_iteration": 5}, (3, 5)),
        ({"max_steps": -1, "instructions_per_iteration": 5, "num_iterations": 2}, (6, 5)),
        ({"max_steps": 2, "instructions_per_iteration": 5}, (2, 5)),  # whichever comes first
    ],
)
def test_length(tmp_path, given, length):
    config = tiny_config(tmp_path, **given)
    assert (config.max_steps, config.instructions_per_iteration) == length


def test_the_template_is_that_of_the_answers(tmp_path):
    assert SeRLConfig(str(tmp_path), use_cpu=True, use_vllm=False).prompt_template == "math"
    choice = SeRLConfig(str(tmp_path), use_cpu=True, use_vllm=False, answer_format="choice")
    assert choice.prompt_template == "choice"
    for name in FORMATS:
        assert load_template(
            SeRLConfig(str(tmp_path), use_cpu=True, use_vllm=False, answer_format=name).prompt_template
        )


TRUE_LABELS = {"instruction_source": "seeds", "label_source": "true_answer"}


@pytest.mark.parametrize(
    ("given", "method", "confirms"),
    [
        ({"method": None}, "trusted", True),  # the default
        ({"method": "paper"}, "paper", False),
        ({"method": "trusted", "confirm_majority": False}, "trusted", False),
        ({**TRUE_LABELS, "method": None}, "paper", False),
        ({**TRUE_LABELS, "method": "paper", "confirm_majority": False, "evidence_seeds": 0}, "paper", False),
    ],
)
def test_the_method(tmp_path, given, method, confirms):
    config = tiny_config(tmp_path, **given)
    assert (config.method, config.confirm_majority, config.max_pass_rate) == (
        method,
        confirms,
        0.9 if method == "trusted" else 0.8,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0. Set it above 0, or leave it out"),
        ({"instructions_per_iteration": 0, "max_steps": -1}, "instructions_per_iteration is 0"),
        ({"instructions_per_iteration": 0}, "instructions_per_iteration is 0"),
        ({"advantage_estimator": "ppo"}, "'ppo'. Set it to one of grpo, dr_grpo, rloo"),
        ({"instruction_source": "hub"}, "'hub'. Set it to one of self_instruction, seeds"),
        ({"label_source": "vote"}, "'vote'. Set it to one of majority_vote, true_answer"),
        ({"answer_format": "letter"}, "'letter'. Set it to one of math, choice"),
        ({"label_source": "true_answer"}, "instruction_source to 'seeds'"),  # there are none for its own instructions
        ({"label_source": "true_answer_or_vote"}, "no seeds are trained on. Set seed_share above 0"),
        ({"seed_share": 0.5, "instruction_source": "seeds"}, "seed_share is 0.5, and instruction_source is 'seeds'"),
        ({"seed_share": 1.5}, "seed_share is 1.5. Set it within"),
        # a batch has two groups
        ({"seed_share": 0.1}, "seed_share is 0.1: that is 0 of the 2 groups"),
        ({"seed_share": 0.9}, "seed_share is 0.9: that is 2 of the 2 groups"),
        ({"method": "best"}, "'best'. Set it to one of None, paper, trusted"),
        ({**TRUE_LABELS, "method": "best"}, "'best'. Set it to one of None, paper, trusted"),
        ({**TRUE_LABELS, "method": "trusted"}, "method is 'trusted', and .* no majority to trust. Leave method out"),
        ({**TRUE_LABELS, "confirm_majority": True}, "confirm_majority is True, and .* Leave confirm_majority out"),
        ({**TRUE_LABELS, "evidence_seeds": 64}, "evidence_seeds is 64, and .* Leave evidence_seeds out"),
        # what an estimator would overrule without a word
        ({"advantage_estimator": "dr_grpo", "loss_type": "bnpo"}, "loss_type is 'bnpo', which dr_grpo has no use for"),
        ({"advantage_estimator": "dr_grpo", "scale_rewards": "batch"}, "scale_rewards is 'batch', which dr_grpo"),
        ({"advantage_estimator": "rloo", "scale_rewards": "none"}, "Leave it at 'group'"),
        (
            {"advantage_estimator": "reinforce_plus_plus", "multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation is 'normalize_then_sum'",
        ),
        (
            {"push_to_hub": True, "hub_strategy": "checkpoint"},
            "hub_strategy is 'checkpoint', and checkpoints hold instructions",
        ),
        ({"log_completions": True, "log_completions_hub_repo": "me/log"}, "log_completions_hub_repo is 'me/log'"),
        ({"min_pass_rate": 0.8, "max_pass_rate": 0.2}, "0 <= min_pass_rate < max_pass_rate <= 1"),
        ({"max_pass_rate": 1.2}, "0 <= min_pass_rate < max_pass_rate <= 1"),
        # four completions can agree by 0.5, 0.75 or 1
        ({"min_pass_rate": 0.8, "max_pass_rate": 0.9}, "they can be 0.5, 0.75, 1"),
        ({"generation_batch_size": 10}, "which num_generations \\(4\\) doesn't divide"),
        ({"gradient_accumulation_steps": 1, "per_device_train_batch_size": 6}, "divi"),
        ({"top_p": 0.9}, "top_p is 0.9, which biases"),
        ({"top_k": 5}, "top_k is 5, which biases"),
        ({"min_p": 0.1}, "min_p is 0.1, which biases"),
        ({"generation_kwargs": {"seed": 1}}, "generation_kwargs sets 'seed'"),
        ({"generation_kwargs": {"temperature": 0.5}}, "generation_kwargs sets 'temperature'"),
        ({"max_kept_instructions": -1}, "max_kept_instructions is -1"),
        ({"max_kept_examples": 9}, "max_kept_examples is 9"),
        ({"diversity_threshold": 1.5}, "diversity_threshold is 1.5"),
        ({"nearness_level": -1.0}, "nearness_level is -1.0. Set it within \\[0.0, 100.0\\]"),
        ({"instruction_presence_penalty": 3.0}, "instruction_presence_penalty is 3.0"),
        ({"instruction_temperature": 0.0}, "instruction_temperature is 0.0"),
        ({"min_words": 200}, "min_words is 200"),
        ({"blocked_words": "image"}, "blocked_words is 'image'. Make it a list"),  # else: letter by letter
        ({"blocked_words": [2024]}, "blocked_words is \\[2024\\]. Make it a list of words"),
        ({"max_vote_seconds": 0.0}, "max_vote_seconds is 0.0. Set it within"),
        ({"max_vote_seconds": float("inf")}, "max_vote_seconds is inf"),
        ({"max_vote_seconds": float("nan")}, "max_vote_seconds is nan"),
        ({"generation_batch_size": 0}, "generation_batch_size is 0"),
        # no checkpoint holds the reference, so that a resumed run would take another one
        ({"sync_ref_model": True}, "sync_ref_model is True"),
        # continuous batching has no presence penalty and would ignore it
        ({"use_transformers_continuous_batching": True}, "continuous batching"),
    ],
)
def test_bad_settings_say_what_to_set(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, **changes)


def test_no_file_that_holds_the_settings_holds_the_token(tmp_path):
    config = tiny_config(tmp_path, hub_token="hf_secret")
    torch.save(config, tmp_path / "training_args.bin")  # as Trainer writes it
    assert b"hf_secret" not in (tmp_path / "training_args.bin").read_bytes()
    assert config.hub_token == "hf_secret"


def test_an_engine_that_is_not_installed_is_named_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr("serl_trl.serl_config.is_vllm_available", lambda min_version: False)
    with pytest.raises(ValueError, match=r"pip install 'serl-trl\[vllm\]'"):
        tiny_config(tmp_path, use_vllm=True)
    assert tiny_config(tmp_path, use_vllm=None).use_vllm is False  # unset: transformers generation

"""What can't train ends in a `ValueError` that names it, before a model is loaded; and what TRL allows is allowed."""

import json
import os
import shutil
import socket
import sys
from functools import partial
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_MODEL, TINY_SETTINGS, TINY_TEMPLATE, tiny_config, tiny_seeds
from datasets import Dataset
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, PreTrainedModel

from serl_trl import SeRLConfig, SeRLTrainer, accuracy_reward, self_play_reward
from serl_trl.bounds import BOUNDS, UNUSED
from serl_trl.engine.vllm import started
from serl_trl.iterate import run as iterate
from serl_trl.self_play.settings import SelfPlaySettings, number_settings
from serl_trl.train import run as train


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


@pytest.fixture
def no_model(monkeypatch):
    """Let loading of any model fail the test."""

    def load(*args, **kwargs):
        pytest.fail("a model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", load)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


QUESTIONS = Dataset.from_dict({"question": ["what is 2 plus 3 ?"], "answer": ["5"]})
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}
BEST = EVALUATED | {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}


def without_others(completions):
    return [0.0] * len(completions)


def of_level(completions, level, **kwargs):
    return [0.0] * len(completions)


class ByAnswer:
    def __call__(self, completions, answer, **kwargs):
        return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        # where it writes
        ({"output_dir": __file__}, {}, "output_dir is .* nothing can be written into"),
        ({"output_dir": __file__ + "/run"}, {}, "output_dir is .* nothing can be written into"),
        ({"output_dir": "/proc/run"}, {}, "nothing can be written into '/proc'"),  # not even by root
        # reward functions: a column of the seeds reaches none, and TRL calls them by name
        ({}, {"reward_funcs": accuracy_reward}, "accuracy_reward asks for `answer`.* label_source to 'true_answer'"),
        ({}, {"reward_funcs": [self_play_reward, ByAnswer()]}, "asks for `answer`"),
        ({}, {"reward_funcs": of_level}, "of_level can't be called: missing a required argument: 'level'"),
        ({}, {"reward_funcs": without_others}, "without_others can't be called: got an unexpected keyword argument"),
        ({"reward_weights": [1.0, 2.0]}, {}, "reward_weights is .* Set it to a number for each reward \\(1\\)"),
        # optimizer, schedule, engine and trackers, made after the model
        ({"optim_args": "betas"}, {}, "optim is 'adamw_torch_fused' with optim_args 'betas'"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, {}, "lr_scheduler_type is 'warmup_stable_decay'.*num_decay_steps"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min": 1}}, {}, "lr_scheduler_kwargs {'min': 1}"),
        ({"generation_kwargs": {"temprature": 1}}, {}, "generation_kwargs sets 'temprature'"),
        ({"report_to": "foo"}, {}, "report_to is \\['foo'\\]"),
        # evaluation
        (EVALUATED, {}, "eval_strategy is 'steps' .* nothing to evaluate on"),
        ({"eval_on_start": True}, {}, "eval_on_start True, and there is nothing to evaluate on"),
        (BEST, {"eval_dataset": {"a": QUESTIONS}}, "metric_for_best_model is 'pass@1'. Set it to one of a_pass@1"),
        (BEST | {"metric_for_best_model": "loss"}, {"eval_dataset": QUESTIONS}, "metric_for_best_model is 'loss'"),
        ({}, {"eval_dataset": [{"question": "what is 2 ?"}]}, "has no column 'answer'"),
        ({}, {"eval_dataset": "zzz"}, "'zzz' is no file here"),
        # seeds and context
        ({}, {"train_dataset": ["what is 2 plus 3 ?"]}, "There are 1 seeds for num_few_shot_examples=8"),
        ({}, {"train_dataset": 5}, "Instructions can't be read from a int"),
        ({"max_completion_length": 510}, {}, "Set max_completion_length to at most 504, or shorten the seeds"),
        ({}, {"train_dataset": ["what is 2 plus 3 ? " * 100] * 8}, "There are 1 seeds"),
        ({"instruction_source": "seeds"}, {"train_dataset": ["what is 2 plus 3 ? " * 100]}, "of 512. Shorten the seeds,"),
        ({"max_instruction_length": 500}, {}, "or lower num_few_shot_examples"),
    ],
)  # fmt: skip
def test_a_run_that_can_not_begin_is_refused_before_a_model_is_loaded(tmp_path, no_model, changes, arguments, message):
    config = tiny_config(**{"output_dir": str(tmp_path / "run")} | changes)
    arguments = {"train_dataset": tiny_seeds()} | arguments
    with pytest.raises(ValueError, match=message):
        SeRLTrainer(str(TINY_MODEL), config, **arguments)
    assert not (tmp_path / "run").exists()


class Command:
    """What a pickle may hold: a command that is run when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def bert(folder: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(vocab_size=50, **sizes)).save_pretrained(folder)


def pickled(folder: Path, content=None) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": content}, folder / "pytorch_model.bin")


def cut(name: str, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is neither a folder here nor found on the Hub"),
        (lambda folder: (folder / "config.json").unlink(), "Unrecognized model in"),
        (partial(cut, "config.json"), "has no configuration"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (partial(cut, "model.safetensors"), "model.safetensors' can't be loaded"),
        (lambda folder: pickled(folder, Command(folder / "run by a pickle")), "pytorch_model.bin' can't be loaded"),
        (bert, "is a BertForMaskedLM, which is no causal language model"),
        (partial(cut, "tokenizer.json"), "has no tokenizer"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json' is no JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json' names no base model"),
    ],
)  # fmt: skip
def test_a_folder_that_holds_no_whole_model_is_refused(tmp_path, spoil, message):
    model = tmp_path / "model"
    shutil.copytree(TINY_MODEL, model)
    spoil(model)
    with pytest.raises(ValueError, match=message):
        SeRLTrainer(str(model), tiny_config(tmp_path / "run"), tiny_seeds())
    assert not (model / "run by a pickle").exists()


def test_pickled_weights_are_loaded_as_weights_only(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY_MODEL, model)
    weights = AutoModelForCausalLM.from_pretrained(TINY_MODEL).state_dict()
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    trainer = SeRLTrainer(str(model), tiny_config(tmp_path / "run"), tiny_seeds())
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())


def test_an_adapters_seeds_are_checked_before_it_is_loaded(tmp_path, no_model):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(TINY_MODEL)}))
    with pytest.raises(ValueError, match="There are 3 seeds"):
        SeRLTrainer(str(tmp_path), tiny_config(tmp_path / "run"), tiny_seeds(3))


TRAIN = ["--seeds", "seeds.jsonl", "--output_dir", "run", "--model_name_or_path", str(TINY_MODEL)]
TRAIN += ["--prompt_template", str(TINY_TEMPLATE), "--use_cpu", "true", "--use_vllm", "false", "--bf16", "false"]
TRAIN += ["--max_completion_length", "8", "--max_instruction_length", "40"]
ITERATE = ["--iterations", "2", "--", "echo"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (train, [*TRAIN, "--beta", "nan"], "beta is nan"),
        (train, [*TRAIN, "--num_generations", "0"], "num_generations is 0"),
        (train, [*TRAIN, "--output_dir", "file"], "output_dir is 'file'"),
        (train, [*TRAIN, "--loss_type", "foo"], "loss_type is 'foo'"),
        (train, [*TRAIN, "--max_completion_length", "4000"], "Set max_completion_length to at most"),
        (train, [*TRAIN, "--use_peft", "--lora_r", "0"], "lora_r is 0"),
        (train, [*TRAIN, "--use_peft", "--lora_dropout", "nan"], "lora_dropout is nan"),
        (train, [*TRAIN, "--model_name_or_path", "no_weights"], "has no weights"),
        (train, [*TRAIN, "--eval_data", "seeds.jsonl"], "has no column 'answer'"),
        (train, [*TRAIN, "--resume_from_checkpoint", "nowhere"], "There is no complete checkpoint"),
        # files of settings
        (train, ["--config", "", *TRAIN], "The settings in '.*' can't be read"),
        (train, ["--config", "list.yaml", *TRAIN], "'list.yaml' is no YAML mapping of settings"),
        (train, ["--config", "broken.yaml", *TRAIN], "The settings in 'broken.yaml' can't be read"),
        (train, ["--config", "null.yaml", *TRAIN], "num_generations is None"),
        (train, ["--config", "seeds.jsonl", *TRAIN], "The settings in 'seeds.jsonl' can't be read"),
        (train, ["--accelerate_config", "", *TRAIN], "--accelerate_config is ''. Set it to one of"),
        (train, ["--accelerate_config", "list.yaml", *TRAIN], "'list.yaml' is no YAML mapping"),
        (train, ["--accelerate_config", "broken.yaml", *TRAIN], "The settings in 'broken.yaml' can't be read"),
        (train, ["--accelerate_config", "null.yaml", *TRAIN], "'null.yaml' is no configuration of accelerate"),
        # the command that is repeated
        (iterate, ["--iterations", "2", "serl-trl", "train", "--output_dir", "run"], "Put `--` before the command"),
        (iterate, [*ITERATE[:3], "serl-trl train --output_dir run"], "There is no command 'serl-trl train"),
        (iterate, [*ITERATE, "--output_dir", "run", "--seed", "abc"], "seed is 'abc'"),
        (iterate, [*ITERATE, "--output_dir", "file"], "output_dir is 'file'"),
        (iterate, [*ITERATE, "--output_dir", "run", "--config", "list.yaml"], "'list.yaml' is no YAML mapping"),
        (iterate, ["--iterations", "two", "--", "echo"], "argument --iterations: invalid int value: 'two'"),
    ],
)  # fmt: skip
def test_a_bad_command_line_ends_in_one_sentence(
    tmp_path, monkeypatch, refused, no_model, command, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_seeds().to_list()))
    (tmp_path / "list.yaml").write_text("- beta\n")
    (tmp_path / "broken.yaml").write_text("[1, 2")
    (tmp_path / "null.yaml").write_text("num_generations:\n")
    (tmp_path / "no_weights").mkdir()
    (tmp_path / "no_weights" / "config.json").write_bytes((TINY_MODEL / "config.json").read_bytes())
    with refused(message):
        command(arguments, "serl-trl")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def busy_port():
    """Let something listen on the port that torch, accelerate and TRL would take."""
    with socket.socket() as listener:
        try:
            listener.bind(("localhost", 29500))
            listener.listen()
        except OSError:
            pass  # another run's
        yield 29500


def test_a_second_run_with_vllm_takes_a_port_of_its_own(busy_port, monkeypatch):
    args = SimpleNamespace(use_vllm=True, vllm_mode="colocate", device=torch.device("cuda"))
    ports = []
    for _ in range(2):  # two runs that start at the same time: TRL would choose one port for both
        monkeypatch.delenv("MASTER_PORT", raising=False)
        with started(args):
            ports.append(int(os.environ["MASTER_PORT"]))
    assert busy_port not in ports and ports[0] != ports[1]
    monkeypatch.setenv("MASTER_PORT", "12345")  # the user's, or a launcher's for all processes
    with started(args):
        assert os.environ["MASTER_PORT"] == "12345"


@pytest.mark.parametrize(("given", "port"), [([], None), (["--main_process_port", "12345"], "12345")])
def test_a_second_launch_takes_a_port_of_its_own(busy_port, monkeypatch, given, port):
    def become(program, command):
        sys.exit(command)

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit) as ended:
        train(["--accelerate_config", "cpu", *given, *TRAIN])
    command = ended.value.code
    assert command.count("--main_process_port") == 1
    found = command[command.index("--main_process_port") + 1]
    assert found == port if port else int(found) not in (0, busy_port)

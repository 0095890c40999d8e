"""What can't train ends in a `ValueError`, and on the command line in one sentence, before a model is loaded."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL, TINY_TEMPLATE, tiny_config, tiny_seeds
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, PreTrainedModel, ProcessorMixin

from serl_trl import SeRLTrainer, accuracy_reward, self_play_reward
from serl_trl.iterate import run as iterate
from serl_trl.train import run as train


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


class WithImages(ProcessorMixin):
    def __init__(self):
        pass


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
        ({}, {"reward_funcs": []}, "reward_funcs is \\[\\]. Set it to a function or a list"),
        ({}, {"reward_funcs": (self_play_reward,)}, "reward_funcs is .* Set it to a function or a list"),
        ({}, {"processing_class": WithImages()}, "processing_class is a WithImages, and prompts are text"),
        # adapter, optimizer, schedule, engine and trackers, made after the model
        ({}, {"peft_config": LoraConfig(target_modules=["q_prj"])}, "Target modules {'q_prj'} not found"),
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
        (train, [*TRAIN, "--resume_from_checkpoint", "nowhere"], "There is no whole checkpoint of self-play in 'nowhere': there is no such folder"),
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

"""What a card may show of a command and of the settings."""

from pathlib import Path

import pytest
import yaml
from conftest import tiny_config

from serl_trl.hub.card import settings_yaml
from serl_trl.hub.privacy import shown_command, without_private
from serl_trl.hub.run_record import RunRecord, changed_settings
from serl_trl.seeds import source_name


HOME = str(Path.home())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/venv/bin/serl-trl", "train", "--seeds", "q.jsonl"], "serl-trl train --seeds q.jsonl"),
        (["/repo/train.py", "--config", "recipes/demo.yaml"], "python train.py --config recipes/demo.yaml"),
        (["/venv/serl_trl/train.py", "--recipe", "demo"], "serl-trl train --recipe demo"),  # started by accelerate
        (["serl-trl", "train", "--hub_token", "secret", "--push_to_hub"], "serl-trl train --push_to_hub"),
        (["serl-trl", "train", "--hub-token=secret", "--push_to_hub"], "serl-trl train --push_to_hub"),
        (["serl-trl", "train", "--hub_tok", "hf_abcdefghijklmnop"], "serl-trl train --hub_tok <token>"),
        (["serl-trl", "train", "--seeds", f"{HOME}/q.jsonl"], "serl-trl train --seeds ~/q.jsonl"),
        (["serl-trl", "train", f"--seeds={HOME}/q.jsonl"], "serl-trl train --seeds=~/q.jsonl"),
        (["serl-trl", "train", "--seeds", "/home/ann/my q.jsonl"], "serl-trl train --seeds '~/my q.jsonl'"),
        (["serl-trl", "train", "--seeds", "/Users/ann/q.jsonl"], "serl-trl train --seeds ~/q.jsonl"),
        (["serl-trl", "train", "--seeds", "/data/home/q.jsonl"], "serl-trl train --seeds /data/home/q.jsonl"),
    ],
)
def test_a_shown_command_has_no_token_and_no_home(arguments, shown):
    assert shown_command(arguments) == shown


def test_a_folder_that_begins_like_the_home_is_another():
    assert without_private(f"{HOME}kit/q.jsonl {HOME}") == f"{HOME}kit/q.jsonl ~"


def test_the_recipe_holds_what_was_changed_and_can_be_used_again(tmp_path):
    settings = changed_settings(tiny_config(tmp_path / "run", hub_token="hf_secretsecret", hub_model_id="me/mine"))
    shown = settings_yaml(settings)
    assert "secret" not in shown and "me/mine" not in shown and str(tmp_path) not in shown
    again = tiny_config(tmp_path / "again", **yaml.safe_load(shown))
    assert changed_settings(again) == settings
    assert settings["learning_rate"] == 1e-3 and settings["save_strategy"] == "no" and "beta" not in settings


def test_settings_of_any_type_become_yaml(tmp_path):
    settings = changed_settings(tiny_config(tmp_path, generation_kwargs={"bad_words": {"x"}}, optim="sgd"))
    assert yaml.safe_load(settings_yaml(settings))["optim"] == "sgd" and "bad_words" in settings["generation_kwargs"]


def test_sources_are_named_without_their_folders(tmp_path):
    (tmp_path / "q.jsonl").write_text("{}")
    assert source_name(tmp_path / "q.jsonl") == "q.jsonl"
    assert source_name("openai/gsm8k") == "openai/gsm8k"
    assert source_name(["What is 2 + 2?"]) == "a dataset in memory"


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = RunRecord("base", "q.jsonl", ["What is 2 + 2?"], {"max_steps": 3}, "serl-trl train")
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record and [path.name[0] for path in tmp_path.iterdir()] == ["_"]
    with pytest.raises(ValueError, match="Push without push_instructions, or train again"):
        RunRecord.load(tmp_path / "elsewhere")
    for broken in ("{", "[]", '{"base_model": "base"}'):
        (tmp_path / "_run.json").write_text(broken)
        with pytest.raises(ValueError, match="is no record of a run"):
            RunRecord.load(tmp_path)

"""The trackers of `report_to` show the instructions that are trained on, with their votes."""

import json

import pytest
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer
from serl_trl.training.tracking import TABLE, as_markdown


def train(output_dir, **settings):
    trainer = SeRLTrainer(
        str(TINY_MODEL), tiny_config(output_dir, max_steps=2, logging_steps=1, **settings), tiny_seeds()
    )
    trainer.train()
    return [group.instruction for group in trainer.loader.last_batch]


def test_tensorboard_has_a_table_of_each_logged_batch(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    instructions = train(tmp_path / "run", report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"tensors": 0})
    events.Reload()
    tables = events.Tensors(f"{TABLE}/text_summary")
    assert [table.step for table in tables] == [1, 2]
    last = tables[-1].tensor_proto.string_val[0].decode()
    assert "| step | instruction | pseudo_label | pass_rate | votes |" in last
    assert all(f"| {instruction} |" in last for instruction in instructions)
    assert {"train/self_rewarding/pass_rate", "train/reward"} <= set(events.Tags()["scalars"])


def test_no_seed_is_sent(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    seeds = train(tmp_path / "run", report_to="tensorboard", instruction_source="seeds")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert seeds and not [tag for tag in events.Tags()["tensors"] if TABLE in tag]


def test_wandb_has_a_table(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    instructions = train(tmp_path / "run", report_to="wandb")
    wandb.finish()
    tables = [
        json.loads(path.read_text()) for path in tmp_path.glob("wandb/offline-*/files/media/table/*/*.table.json")
    ]
    place = tables[0]["columns"].index("instruction")
    assert len(tables) == 2 and instructions in [[row[place] for row in table["data"]] for table in tables]


def test_what_the_model_wrote_is_shown_as_it_is():
    table = as_markdown([{"instruction": "a | b\n<script>"}])
    assert table == "| instruction |\n| --- |\n| a \\| b \\<script\\> |"

"""The trackers of `report_to` show the instructions that are trained on, with their votes."""

import json

import pytest
from conftest import TINY_MODEL, tiny_config, tiny_seeds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from serl_trl import SeRLTrainer
from serl_trl.hub.privacy import folded
from serl_trl.training.tracking import TABLE, as_markdown


def train(output_dir, **settings) -> list[str]:
    """Train two steps, and return the model's own instructions of the last one that are no seeds."""
    seeds = tiny_seeds(20)
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, max_steps=2, logging_steps=1, **settings), seeds)
    trainer.train()
    written = [group.instruction for group in trainer.loader.last_batch]
    return [text for text in written if folded(text) not in map(folded, seeds["instruction"])]


def board(tmp_path, monkeypatch, **settings) -> tuple[EventAccumulator, list[str]]:
    """Return what a run wrote for TensorBoard, and its last instructions."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    instructions = train(tmp_path / "run", report_to="tensorboard", **settings)
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"tensors": 0})
    events.Reload()
    return events, instructions


def test_tensorboard_has_a_table_of_each_logged_batch(tmp_path, monkeypatch):
    events, instructions = board(tmp_path, monkeypatch)
    tables = events.Tensors(f"{TABLE}/text_summary")
    assert [table.step for table in tables] == [1, 2]
    last = tables[-1].tensor_proto.string_val[0].decode()
    assert "| step | instruction | pseudo_label | pass_rate | votes |" in last
    assert instructions and all(f"| {instruction} |" in last for instruction in instructions)
    assert last.count("\n") == 1 + len(instructions)  # what repeats a seed is not there
    assert {"train/self_rewarding/pass_rate", "train/reward"} <= set(events.Tags()["scalars"])


def test_no_seed_is_sent(tmp_path, monkeypatch):
    events, _ = board(tmp_path, monkeypatch, instruction_source="seeds")
    assert not [tag for tag in events.Tags()["tensors"] if TABLE in tag]


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


def test_a_tracker_that_fails_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        "torch.utils.tensorboard.SummaryWriter.add_text",
        lambda self, tag, *args: (_ for _ in ()).throw(OSError("no space left")) if tag == TABLE else None,
    )
    assert board(tmp_path, monkeypatch)[1]
    assert caplog.text.count("The tracker gets no more instructions: OSError: no space left") == 1


def test_what_the_model_wrote_is_shown_as_it_is():
    text = "If $x_1 < 5$ & y > 2, **what** is | `x` | <script>alert(1)</script>\nor ~3?"
    shown = markdown_to_safe_html(as_markdown([{"instruction": text}]))
    assert (
        "<td>If $x_1 &lt; 5$ &amp; y &gt; 2, **what** is | `x` | &lt;script&gt;alert(1)&lt;/script&gt; or ~3?</td>"
        in shown
    )

"""A run writes its report on the way, and goes on where that fails."""

import json

import pytest
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer
from serl_trl.hub.run_record import RunRecord
from serl_trl.report.page import REPORT_FILE
from serl_trl.report.reading import read_runs
from serl_trl.training import reporting


def train(output_dir, **settings):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3} | settings
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **settings), tiny_seeds())
    trainer.train()
    return trainer


@pytest.mark.parametrize(("first", "is_written"), [(0.0, True), (60.0, False)])
def test_a_training_of_more_than_a_minute_writes_its_report(tmp_path, monkeypatch, first, is_written):
    monkeypatch.setattr(reporting, "FIRST", first)
    train(tmp_path)
    assert (tmp_path / REPORT_FILE).exists() == is_written
    if is_written:
        (run,) = read_runs(tmp_path)
        assert run.steps == 3 and not run.is_finished and "not finished" in (tmp_path / REPORT_FILE).read_text()
        assert RunRecord.load(tmp_path).versions.keys() >= {"torch", "trl"} and len(run.seeds) == 50


def test_a_report_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(reporting, "FIRST", 0.0)
    (tmp_path / REPORT_FILE).mkdir(parents=True)
    trainer = train(tmp_path, max_steps=2)
    assert trainer.state.global_step == 2 and "There is no new report" in caplog.text
    assert json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2

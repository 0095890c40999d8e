"""An interrupted run goes on as if it had never been interrupted."""

import json
import logging
import shutil

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights

from serl_trl import SeRLTrainer
from serl_trl.training.beginning import resolve_checkpoint
from serl_trl.training.resume import load_rollouts, save_rollouts


# Batches of 4, two a generation batch, each used twice: a cycle of 4 optimizer steps; step 6 is in its middle.
SCHEDULE = {
    "gradient_accumulation_steps": 1,
    "generation_batch_size": 8,
    "num_iterations": 2,
    "max_steps": 10,
    "save_strategy": "steps",
    "save_steps": 2,
    "min_pass_rate": 0.4,
    "max_pass_rate": 1.0,  # easily met: there is surplus to be carried over
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("whole")
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **SCHEDULE), tiny_seeds())
    trainer.train()
    # Surplus crosses the checkpoints: some groups are trained later than they were sampled.
    assert any(
        row["trained_step"] is not None and row["trained_step"] > row["step"] for row in ledger_rows(output_dir)
    )
    return output_dir, weights(trainer.model)


@pytest.mark.parametrize("step", [4, 6])  # at the end of a cycle, and in the middle of one
def test_resumed_runs_end_with_the_same_bits_and_the_same_ledger(whole_run, tmp_path, step):
    output_dir, final_weights = whole_run
    # What an interrupted run leaves: its checkpoint, and a ledger that is already ahead of it.
    shutil.copytree(output_dir / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    shutil.copytree(output_dir / "_ledger", tmp_path / "_ledger")
    # ... and a save that was cut off.
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-8" / "serl_state.json").write_text("{}")
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **SCHEDULE), tiny_seeds())
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(old, new) for old, new in zip(final_weights, weights(trainer.model), strict=True))
    assert ledger_rows(tmp_path) == ledger_rows(output_dir)


def test_checkpoints_hold_no_pickle_of_ours(whole_run):
    names = {path.name for path in (whole_run[0] / "checkpoint-6").iterdir() if "serl" in path.name}
    assert names == {"serl_state.json", "serl_run.json", "serl_manifest.json", "serl_rollouts_0.tensors"}
    assert json.loads((whole_run[0] / "checkpoint-6" / "serl_state.json").read_text())["batch_index"] == 2


def test_a_folder_with_checkpoints_is_not_overwritten(whole_run):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(whole_run[0], **SCHEDULE), tiny_seeds())
    with pytest.raises(ValueError, match="holds a run that is not finished.* set resume_from_checkpoint to 'true'"):
        trainer.train()
    trainer.save_state()  # of a finished run
    with pytest.raises(ValueError, match="is at step 10, .*: nothing is left to train .max_steps is 10"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="no whole checkpoint of self-play in 'nowhere': .* The last one is"):
        trainer.train(resume_from_checkpoint="nowhere")


def test_a_run_that_its_instructions_ended_is_over(tmp_path):
    settings = {"max_steps": -1, "instructions_per_iteration": 6, "save_strategy": "steps", "save_steps": 1}
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings), tiny_seeds())
    trainer.train()
    # Killed before it saved its model, it goes on to that without training.
    rows = ledger_rows(tmp_path)
    resumed = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings), tiny_seeds())
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == trainer.state.global_step and ledger_rows(tmp_path) == rows
    assert all(torch.equal(*pair) for pair in zip(weights(trainer.model), weights(resumed.model), strict=True))
    resumed.save_state()
    with pytest.raises(ValueError, match="nothing is left to train .*instructions_per_iteration 6.* Raise"):
        SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings), tiny_seeds()).train(True)
    more = tiny_config(tmp_path, **settings | {"instructions_per_iteration": 9})
    SeRLTrainer(str(TINY_MODEL), more, tiny_seeds()).train(resume_from_checkpoint=True)
    assert sum(row["fate"] not in ("rejected", "unused") for row in ledger_rows(tmp_path)) >= 9


def test_another_group_size_on_resume_trains_whole_groups(whole_run, tmp_path):
    shutil.copytree(whole_run[0] / "checkpoint-6", tmp_path / "checkpoint-6")
    shutil.copytree(whole_run[0] / "_ledger", tmp_path / "_ledger")
    config = tiny_config(tmp_path, **SCHEDULE | {"num_generations": 8, "max_steps": 8})
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    trainer.train(resume_from_checkpoint=True)
    trained = [row for row in ledger_rows(tmp_path) if (row["trained_step"] or 0) >= 6]
    assert trained and all(len(row["rewards"]) == 8 for row in trained)


def test_a_checkpoint_of_another_run_does_not_overwrite_a_ledger(whole_run, tmp_path):
    SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, max_steps=1), tiny_seeds()).train()
    with pytest.raises(ValueError, match="is not a checkpoint of the run in output_dir"):
        resolve_checkpoint(whole_run[0] / "checkpoint-4", tiny_config(tmp_path, **SCHEDULE))


def test_rollouts_of_another_schedule_are_dropped_with_a_warning(tmp_path, caplog):
    slices = [{"completion_ids": torch.arange(6).view(2, 3), "num_items_in_batch": torch.tensor(6)}]
    save_rollouts(tmp_path, 0, 5, {"processes": 1}, slices)
    micro_step, loaded = load_rollouts(tmp_path, 0, {"processes": 1}, torch.device("cpu"))
    assert micro_step == 5 and loaded[0]["num_items_in_batch"] == 6
    assert torch.equal(loaded[0]["completion_ids"], slices[0]["completion_ids"])
    with caplog.at_level(logging.WARNING):
        assert load_rollouts(tmp_path, 0, {"processes": 2}, torch.device("cpu")) is None
        assert load_rollouts(tmp_path, 1, {"processes": 2}, torch.device("cpu")) is None
    assert "rollouts are dropped" in caplog.text and "is missing" in caplog.text

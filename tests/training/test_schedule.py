"""When a run ends, and where the learning rate is then."""

import pytest
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds
from test_trust import StopAt

from serl_trl import SeRLTrainer


COSINE = {"lr_scheduler_type": "cosine_with_min_lr", "learning_rate": 1e-4}  # down to 10 %


def learning_rates(tmp_path, **settings) -> list[float]:
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **COSINE | settings), tiny_seeds())
    trainer.train()
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_the_learning_rate_comes_down_with_the_instructions_that_end_the_run(tmp_path):
    rates = learning_rates(tmp_path, max_steps=-1, instructions_per_iteration=40)
    # max_steps is 20, two groups a batch; about four instructions are admitted for these.
    assert len(rates) < 15 and all(later <= earlier for earlier, later in zip(rates, rates[1:], strict=False))
    assert rates[0] == 1e-4 and rates[-1] < 2e-5
    steps = [row["step"] for row in ledger_rows(tmp_path) if row["fate"] not in ("rejected", "unused")]
    assert len(steps) >= 40 and sum(step < max(steps) for step in steps) < 40  # the batch before was not enough


def test_a_run_of_so_many_steps_has_the_schedule_of_transformers(tmp_path):
    rates = learning_rates(tmp_path, max_steps=4)
    assert rates == pytest.approx([1e-4, 8.68e-5, 5.5e-5, 2.32e-5], rel=1e-2)


def test_a_learning_rate_that_a_notebook_sets_between_two_trainings_holds_later_too(tmp_path):
    def make_trainer(learning_rate: float) -> SeRLTrainer:
        constant = {"learning_rate": learning_rate, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
        return SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **constant), tiny_seeds())

    trainer = make_trainer(1e-3)
    for last_step in (1, 2):
        trainer.add_callback(stop := StopAt(last_step))
        trainer.train(resume_from_checkpoint=last_step == 2)
        trainer.remove_callback(stop)
        trainer.args.learning_rate = 1e-4
    resumed = make_trainer(1e-4)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["learning_rate"] for entry in resumed.state.log_history if "learning_rate" in entry] == [
        1e-3,
        1e-4,
        1e-4,
    ]

"""A run of method `trusted` begins with evidence, notices when it loses, and goes on after an alarm as if nothing was."""

import json
import os
import signal
from contextlib import contextmanager

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights
from datasets import Dataset
from test_resume import SCHEDULE
from transformers import TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.evaluation.model_index import evaluated_at, training_results
from serl_trl.self_play.confirmation import LOOKS
from serl_trl.self_play.seed_evidence import Evidence
from serl_trl.training.good_weights import GOOD_FOLDER
from serl_trl.training.trust import NotReadyError


TRUSTED = SCHEDULE | {
    "method": "trusted",
    "num_generations": 8,
    "max_steps": 32,
    "save_steps": 12,
    "nearness_level": 0,
    "learning_rate": 6e-5,
}
TRUSTED |= {"generation_batch_size": 16, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
# Against the vote, and fast: what the model says of the seeds falls apart.
LOSES = {"learning_rate": 4e-4, "warmup_steps": 0, "lr_scheduler_type": "constant"}


@pytest.fixture
def low_bars():
    """Let more groups be confirmed than a run would: such a run has to lose within a few steps."""
    with lowered_bars():
        yield


@contextmanager
def lowered_bars():
    with pytest.MonkeyPatch.context() as patch:
        for look in LOOKS:
            patch.setitem(LOOKS, look, (0.0, 2.8))
        yield


def labelled_seeds():
    texts = tiny_seeds()["instruction"]
    return Dataset.from_dict({"instruction": texts, "answer": [str(true_answer(text)) for text in texts]})


def true_answer(text):
    _, _, first, sign, second, _ = text.split()
    return int(first) + (1 if sign == "plus" else -1) * int(second)


def against_the_vote(completions, vote_reward, **kwargs):
    return [1.0 - reward for reward in vote_reward]


class StopAt(TrainerCallback):
    """Ends a training after a step, with a checkpoint, as a user's callback may."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def make_trainer(tmp_path, stop_at=None, reward=None, seeds=None, evaluated=None, **changes):
    config = tiny_config(tmp_path, **TRUSTED | changes)
    trainer = SeRLTrainer(str(TINY_MODEL), config, seeds or tiny_seeds(), evaluated, reward)
    if stop_at is not None:
        trainer.add_callback(StopAt(stop_at))
    return trainer


def end_of(trainer, tmp_path):
    """What two runs that are the same have in common."""
    learning_rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return weights(trainer.model), ledger_rows(tmp_path), trainer.trust.state_dict(), learning_rates


def is_same(first, second):
    same_weights = all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    return same_weights and first[1:] == second[1:]


@pytest.mark.usefixtures("low_bars")
@pytest.mark.parametrize(
    "reward, changes, alarms",
    [
        (None, {}, 0),  # no alarm: slow weights and watched seeds are as if there had been no interruption
        (against_the_vote, LOSES, 2),  # interrupted between the first alarm, after 8 steps, and the second
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, reward, changes, alarms):
    whole = make_trainer(tmp_path / "whole", reward=reward, **changes)
    whole.train()
    assert whole.trust.sentinel.alarms == alarms
    make_trainer(tmp_path / "parts", stop_at=12, reward=reward, **changes).train()
    resumed = make_trainer(tmp_path / "parts", reward=reward, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert is_same(end_of(resumed, tmp_path / "parts"), end_of(whole, tmp_path / "whole"))


@pytest.mark.usefixtures("low_bars")
def test_an_alarm_brings_back_weights_and_halves_the_learning_rate(tmp_path, capsys):
    trainer = make_trainer(tmp_path, stop_at=8, reward=against_the_vote, **LOSES)
    start = weights(trainer.model)
    trainer.train()
    assert trainer.trust.sentinel.alarms == 1 and "the learning rate is halved" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model), start, strict=True))
    assert trainer.lr_scheduler.get_last_lr() == [2e-4] * 2
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == list(range(1, 9))


@pytest.mark.usefixtures("low_bars")
def test_the_second_alarm_ends_the_run_with_the_last_good_weights(tmp_path):
    changes = LOSES | {"learning_rate": 1e-3}  # half of it loses too
    trainer = make_trainer(tmp_path, reward=against_the_vote, **changes)
    start = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step < 32 and "second time" in trainer.trust.ended
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model), start, strict=True))
    trainer.save_state()
    assert not (tmp_path / GOOD_FOLDER).exists()


def test_what_the_last_checkpoint_would_go_back_to_stays(tmp_path):
    make_trainer(tmp_path, stop_at=17).train()
    (tmp_path / "checkpoint-17").rename(tmp_path / "gone")  # as if the run had been killed there
    assert {path.name for path in (tmp_path / GOOD_FOLDER).iterdir()} == {"checkpoint-8", "checkpoint-16"}
    make_trainer(tmp_path, stop_at=14).train(resume_from_checkpoint=True)  # from checkpoint-12
    assert not (tmp_path / GOOD_FOLDER / "checkpoint-12").exists()  # the weights of step 8 are there to go back to


@pytest.mark.usefixtures("low_bars")
@pytest.mark.parametrize(
    "best", [{}, {"load_best_model_at_end": True, "metric_for_best_model": "pass@1", "save_steps": 7}]
)
def test_without_a_gain_that_true_answers_show_the_start_is_kept(tmp_path, best):
    changes = LOSES | {"max_steps": 7, "eval_strategy": "steps", "eval_steps": 7} | best  # too short for a check
    seeds = labelled_seeds()
    trainer = make_trainer(tmp_path, reward=against_the_vote, seeds=seeds, evaluated=seeds, **changes)
    start = weights(trainer.model)
    trainer.train()
    assert trainer.trust.evidence.is_labelled
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model), start, strict=True))
    # What was measured at step 7 is of weights that are gone.
    assert any("eval_pass@1" in entry for entry in trainer.state.log_history)
    assert evaluated_at(trainer.state.log_history, 7) == {} and training_results(trainer) == []
    trainer.evaluate()
    assert evaluated_at(trainer.state.log_history, 7) and training_results(trainer)


class KnewNothing(TrainerCallback):
    """Lets a run take its start for one that answered nothing right."""

    def __init__(self, trust):
        self.trust = trust

    def on_step_begin(self, args, state, control, **kwargs):
        self.trust.sentinel.start = [0.0] * len(self.trust.sentinel.start)


def test_a_gain_that_true_answers_show_is_kept(tmp_path, capsys):
    trainer = make_trainer(tmp_path, seeds=labelled_seeds(), max_steps=4)
    trainer.add_callback(KnewNothing(trainer.trust))
    start = weights(trainer.model)
    trainer.train()
    assert "start is kept" not in capsys.readouterr().out
    assert not all(torch.equal(a, b) for a, b in zip(weights(trainer.model), start, strict=True))


def test_a_start_that_is_unsure_is_refused_with_the_figures(tmp_path):
    trainer = make_trainer(tmp_path, temperature=1.6)
    with pytest.raises(NotReadyError, match=r"\d+ of \d+ seeds in the band"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_checks_and_evidence_nothing_is_asked(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, evidence_seeds=0, confirm_majority=False, first_generations=0)
    trainer.train()
    assert trainer.trust.evidence is None and trainer.loader.totals.counts["checking_tokens"] == 0


@pytest.mark.usefixtures("low_bars")
@pytest.mark.parametrize("unset", ["sentinel_checks", "evidence_seeds"])
def test_a_run_may_be_watched_from_where_it_is_resumed(tmp_path, unset):
    make_trainer(tmp_path, stop_at=12, **{unset: 0}).train()
    trainer = make_trainer(tmp_path, stop_at=16, reward=against_the_vote, **LOSES)
    trainer.train(resume_from_checkpoint=True)
    assert (trainer.trust.sentinel.alarms, trainer.trust.sentinel.good) == (1, 12)


class TerminateAt(TrainerCallback):
    """Sends a signal before the sentinel has its turn: at the end of a step, or at that of the training."""

    def __init__(self, trainer, step):
        self.step = step
        trainer.callback_handler.callbacks.insert(0, self)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_end(self, args, state, control, **kwargs):
        if self.step is None:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_check_waits_for_the_resumed_run_where_a_signal_has_come(tmp_path):
    trainer = make_trainer(tmp_path)
    TerminateAt(trainer, 8)
    with pytest.raises(SystemExit):
        trainer.train()
    assert (trainer.state.global_step, trainer.trust.sentinel.checked) == (8, 0)
    resumed = make_trainer(tmp_path)
    TerminateAt(resumed, 9)
    with pytest.raises(SystemExit):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.trust.sentinel.checked == 8


def test_checks_follow_the_instructions_that_end_a_run(tmp_path):
    # Four a batch of two steps, so that 40 steps are 80: by `max_steps` alone there would be no check before the end.
    trainer = make_trainer(tmp_path, max_steps=400, instructions_per_iteration=48, sentinel_checks=2)
    trainer.train()
    checks = [entry["step"] for entry in trainer.state.log_history if "sentinel/change" in entry]
    assert 12 <= checks[0] <= 24 and checks[-1] == trainer.state.global_step < 50


def test_a_signal_before_the_last_check_does_not_stop_it(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    TerminateAt(trainer, None)
    trainer.train()
    trainer.save_state()
    assert trainer.trust.sentinel.checked == 2 and not (tmp_path / GOOD_FOLDER).exists()


def test_what_drifted_once_is_drawn_from_the_seeds_alone_from_there_on(tmp_path):
    state = None
    for pass_rate in (
        0.5,
        0.9,
    ):  # the second time, in a run that goes on from there, it is as high as that of the seeds
        trainer = make_trainer(tmp_path, nearness_level=1, confirm_majority=False)
        trainer.loader.source.gate = None
        trainer.trust.evidence = Evidence(50, 0.9, 0, 0, 0, 0, 0, 0, 0.2, [], {})
        if state is not None:
            trainer.trust.load(tmp_path, state)
        assert trainer.loader.source.max_kept_examples == 2
        trainer.loader.totals.pass_rates[pass_rate] = 64
        trainer.trust._watch_drift()
        assert trainer.loader.source.max_kept_examples == 0
        state = json.loads(json.dumps(trainer.trust.state_dict()))

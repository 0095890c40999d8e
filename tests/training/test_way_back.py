"""The way back of method `trusted` holds: in runs that are interrupted, prolonged or damaged, and where weights break."""

import logging
import math
import os
import shutil
import signal
from copy import deepcopy

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, weights
from safetensors.torch import load_file
from test_trust import (
    LOSES,
    TRUSTED,
    KnewNothing,
    TerminateAt,
    against_the_vote,
    end_of,
    is_same,
    labelled_seeds,
    lowered_bars,
    make_trainer,
)
from transformers import TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.evaluation.model_index import BACK_TO
from serl_trl.training.good_weights import GOOD_FOLDER, LostWeightsError, good_checkpoint
from serl_trl.training.sentinel import SHOWN, paired_change


LOSES_TWICE = LOSES | {"learning_rate": 1e-3}  # half of it loses too: after 8 steps, and after 16
BREAKS = LOSES | {"learning_rate": 1e3, "save_steps": 1, "save_total_limit": 1}
MILD = {"learning_rate": 1e-5}  # neither loses nor gains


@pytest.fixture(scope="module", autouse=True)
def low_bars():
    with lowered_bars():
        yield


def same_weights(model, others):
    return all(torch.equal(a, b) for a, b in zip(weights(model), others, strict=True))


def cut_start(output_dir):
    path = output_dir / GOOD_FOLDER / "checkpoint-0" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def test_weights_that_are_not_finite_are_gone_back_from(tmp_path, capsys):
    trainer = make_trainer(tmp_path, **BREAKS)
    start = weights(trainer.model)
    trainer.train()
    assert "the weights are no longer finite numbers. Weights of step 0 are back" in capsys.readouterr().out
    assert trainer.trust.sentinel.alarms == 2 and "second time" in trainer.trust.ended
    assert same_weights(trainer.model, start)
    saved = load_file(tmp_path / f"checkpoint-{trainer.state.global_step}" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_weights_that_are_not_finite_are_not_saved_where_nothing_is_watched(tmp_path):
    trainer = make_trainer(tmp_path, method="paper", **BREAKS)
    with pytest.raises(LostWeightsError, match=r"learning_rate below 1000.0") as error:
        trainer.train()
    last = tmp_path / f"checkpoint-{trainer.state.global_step - 1}"
    assert str(last) in error.value.__notes__[0]
    assert all(tensor.isfinite().all() for tensor in load_file(last / "model.safetensors").values())


def test_broken_weights_are_not_saved_where_the_way_back_is_lost(tmp_path):
    class Lose(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            shutil.rmtree(tmp_path / GOOD_FOLDER, ignore_errors=True)

    trainer = make_trainer(tmp_path, **BREAKS)
    trainer.add_callback(Lose())
    with pytest.raises(LostWeightsError, match="the weights to go back to: there is no such folder"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{trainer.state.global_step - 1}"]


def turned_after_8(completions, vote_reward, trainer_state, **kwargs):
    """Teach nothing for eight steps, but for a little KL, and then the wrong thing."""
    return [1.0] * len(completions) if trainer_state.global_step < 8 else against_the_vote(completions, vote_reward)


class See(TrainerCallback):
    """Keeps weights, optimizer and surplus as they are where some steps begin."""

    def __init__(self, trainer, *steps):
        self.trainer, self.steps, self.seen = trainer, steps, {}
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            optimizer = deepcopy(self.trainer.optimizer.state_dict()["state"])
            self.seen[state.global_step] = weights(self.trainer.model), optimizer, len(self.trainer.loader.surplus)


def test_an_alarm_brings_back_weights_and_optimizer_of_a_later_step(tmp_path):
    trainer = make_trainer(tmp_path, stop_at=17, reward=turned_after_8, **LOSES)
    see = See(trainer, 8, 16)
    trainer.train()
    assert [entry[BACK_TO] for entry in trainer.state.log_history if BACK_TO in entry] == [8]
    (good, good_optimizer, _), (back, optimizer, surplus) = see.seen[8], see.seen[16]
    assert all(torch.equal(a, b) for a, b in zip(back, good, strict=True))
    assert surplus == 0  # which the weights that have lost had labelled
    assert optimizer.keys() == good_optimizer.keys() and optimizer
    for key, state in good_optimizer.items():
        assert all(torch.equal(optimizer[key][name], tensor) for name, tensor in state.items())


class TakeAtEnd(TrainerCallback):
    """Keeps the weights that a training ends with, as a tracker may that uploads them."""

    def on_train_end(self, args, state, control, model, **kwargs):
        self.weights = weights(model)


def test_callbacks_see_the_weights_that_are_kept(tmp_path):
    take, config = TakeAtEnd(), tiny_config(tmp_path, **TRUSTED | LOSES | {"max_steps": 7})
    trainer = SeRLTrainer(str(TINY_MODEL), config, labelled_seeds(), None, against_the_vote, callbacks=[take])
    start = weights(trainer.model)
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(take.weights, start, strict=True))
    assert same_weights(trainer.model, start)


def test_the_second_alarm_ends_with_good_weights_and_not_with_the_best_by_evaluation(tmp_path):
    changes = {"load_best_model_at_end": True, "metric_for_best_model": "pass@1", "save_steps": 4, "eval_steps": 4}
    changes |= {"eval_strategy": "steps", "save_total_limit": 1}
    trainer = make_trainer(tmp_path, reward=against_the_vote, evaluated=labelled_seeds(), **LOSES_TWICE | changes)
    start = weights(trainer.model)
    trainer.train()
    assert "training ends with the weights of step 0" in trainer.trust.ended
    assert same_weights(trainer.model, start)
    trainer.save_state()
    with pytest.raises(ValueError, match="second time"):  # the best checkpoint, of a step before, is not all there is
        make_trainer(tmp_path, evaluated=labelled_seeds(), **LOSES_TWICE | changes).train(resume_from_checkpoint=True)


def test_a_run_that_goes_on_in_another_folder_brings_its_good_weights(tmp_path):
    make_trainer(tmp_path / "one", stop_at=2, seeds=labelled_seeds(), **MILD).train()
    moved = make_trainer(tmp_path / "two", seeds=labelled_seeds(), max_steps=3, **MILD)
    moved.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2"))
    assert moved.trust.sentinel.start_step == 0 and (tmp_path / "one" / GOOD_FOLDER / "checkpoint-0").is_dir()


def test_it_takes_none_of_another_run_that_lie_there(tmp_path):
    make_trainer(tmp_path / "one", stop_at=2, seeds=labelled_seeds(), **MILD).train()
    shutil.copytree(tmp_path / "one" / GOOD_FOLDER, tmp_path / "two" / GOOD_FOLDER)
    shutil.rmtree(tmp_path / "one" / GOOD_FOLDER)
    moved = make_trainer(tmp_path / "two", seeds=labelled_seeds(), max_steps=3, **MILD)
    with pytest.raises(LostWeightsError, match="the start: there is no such folder"):
        moved.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2"))


@pytest.fixture(scope="module")
def lost_twice(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(output_dir, reward=against_the_vote, **LOSES_TWICE)
    trainer.train()
    assert (trainer.trust.sentinel.alarms, trainer.state.global_step) == (2, 16)
    trainer.save_state()  # it is finished
    return output_dir, end_of(trainer, output_dir)


def terminate_in_check(trainer, step):
    """Send a signal while the watched seeds are answered."""
    aside = trainer.trust.aside

    def ask(time=0):
        if trainer.state.global_step == step and time == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return aside(time)

    trainer.trust.aside = ask


# In the check that gives the second alarm, and before it: that check waits for the resumed run.
@pytest.mark.parametrize("terminate", [terminate_in_check, TerminateAt])
def test_a_second_alarm_ends_an_interrupted_run_as_it_ends_another(tmp_path, lost_twice, terminate):
    trainer = make_trainer(tmp_path, reward=against_the_vote, **LOSES_TWICE)
    terminate(trainer, 16)
    with pytest.raises(SystemExit):
        trainer.train()
    resumed = make_trainer(tmp_path, reward=against_the_vote, **LOSES_TWICE)
    resumed.train(resume_from_checkpoint=True)
    resumed.save_state()
    assert is_same(end_of(resumed, tmp_path), lost_twice[1]) and not (tmp_path / GOOD_FOLDER).exists()


def test_a_run_that_a_second_alarm_ended_is_not_prolonged(lost_twice):
    with pytest.raises(ValueError, match="second time.* Set output_dir to a new folder"):
        make_trainer(lost_twice[0], max_steps=64).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "seeds, changes",
    [
        (labelled_seeds(), MILD | {"max_steps": 4, "save_steps": 4}),  # shows no gain: the start is kept
        (None, LOSES | {"max_steps": 7}),  # an alarm in the check at the end
        (labelled_seeds(), LOSES_TWICE),  # a second alarm on the way
    ],
)
def test_a_run_that_is_killed_before_its_model_is_saved_ends_as_it_would_have(tmp_path, seeds, changes):
    ends = []
    for resume in (False, True):
        trainer = make_trainer(tmp_path, seeds=seeds, reward=against_the_vote, **changes)
        start = weights(trainer.model)
        trainer.train(resume_from_checkpoint=resume)
        ends.append((trainer.trust.state_dict(), ledger_rows(tmp_path)))
        assert same_weights(trainer.model, start)
    assert ends[0] == ends[1]
    trainer.save_state()
    assert not (tmp_path / GOOD_FOLDER).exists()


@pytest.mark.parametrize("unset", ["sentinel_checks", "evidence_seeds"])
def test_where_a_resumed_run_begins_to_be_watched_its_weights_are_the_start(tmp_path, capsys, unset):
    make_trainer(tmp_path, stop_at=12, seeds=labelled_seeds(), **{unset: 0}).train()
    saved = load_file(tmp_path / "checkpoint-12" / "model.safetensors")
    resumed = make_trainer(tmp_path, seeds=labelled_seeds(), reward=against_the_vote, max_steps=15, **LOSES)
    resumed.train(resume_from_checkpoint=True)
    assert "The start is kept" in capsys.readouterr().out
    assert all(torch.equal(resumed.model.state_dict()[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("lose", [cut_start, lambda output_dir: shutil.rmtree(output_dir / GOOD_FOLDER)])
def test_a_lost_start_is_replaced_by_weights_that_show_a_gain(tmp_path, caplog, lose):
    trainer = make_trainer(tmp_path, stop_at=2, seeds=labelled_seeds(), **MILD)
    trainer.add_callback(KnewNothing(trainer.trust))
    trainer.train()
    lose(tmp_path)
    resumed = make_trainer(tmp_path, seeds=labelled_seeds(), max_steps=3, **MILD)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert "Those of now are saved in their place" in caplog.text
    assert (resumed.trust.sentinel.start_step, resumed.state.global_step) == (2, 3)


@pytest.mark.parametrize("changes", [{}, {"sentinel_checks": 0}])
def test_a_lost_start_is_said_where_no_gain_is_shown(tmp_path, changes):
    make_trainer(tmp_path, stop_at=2, seeds=labelled_seeds(), **MILD).train()
    cut_start(tmp_path)
    resumed = make_trainer(tmp_path, seeds=labelled_seeds(), max_steps=3, **MILD | changes)
    if changes:  # the way out that the error names
        resumed.train(resume_from_checkpoint=True)
        resumed.save_state()
        assert resumed.state.global_step == 3 and not (tmp_path / GOOD_FOLDER).exists()
    else:
        with pytest.raises(LostWeightsError, match="the start: .* set sentinel_checks to 0"):
            resumed.train(resume_from_checkpoint=True)


def test_a_finished_run_that_is_not_prolonged_stays_finished(tmp_path):
    trainer = make_trainer(tmp_path, seeds=labelled_seeds(), max_steps=2, **MILD)
    trainer.train()
    trainer.save_state()
    for max_steps, error, message in (
        (3, LostWeightsError, "the start: "),
        (2, ValueError, "nothing is left to train"),
    ):
        with pytest.raises(error, match=message):
            make_trainer(tmp_path, seeds=labelled_seeds(), max_steps=max_steps, **MILD).train(
                resume_from_checkpoint=True
            )


def test_a_new_run_does_not_go_back_to_weights_of_another(tmp_path):
    trainer = make_trainer(tmp_path, stop_at=3, save_strategy="no")
    trainer.train()
    assert good_checkpoint(trainer, 0).is_dir()
    make_trainer(tmp_path, method="paper", max_steps=2).train()
    assert not (tmp_path / GOOD_FOLDER).exists()


def test_what_changes_of_floor_and_answers_on_the_way_is_so_or_is_said(tmp_path, caplog):
    make_trainer(tmp_path, stop_at=2).train()
    resumed = make_trainer(tmp_path, stop_at=2, seeds=labelled_seeds(), min_pass_rate=0.3)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.loader.min_pass_rate == 0.3 and "min_pass_rate was 0.4 and is 0.3" in caplog.text
    assert "true_answers was the default and is 50" in caplog.text and "evidence and watched seeds stay" in caplog.text
    assert not resumed.trust.evidence.is_labelled


@pytest.mark.parametrize("learning_rate, alarms", [(4e-4, 1), (1e-3, 2)])
def test_alarms_of_an_earlier_training_do_not_slow_the_next(tmp_path, learning_rate, alarms):
    changes = LOSES | {"learning_rate": learning_rate, "save_strategy": "no"}
    trainer = make_trainer(tmp_path, stop_at=8 * alarms, reward=against_the_vote, **changes)
    trainer.train()
    assert trainer.trust.sentinel.alarms == alarms
    assert trainer.lr_scheduler.get_last_lr() == [learning_rate / 2**alarms] * 2
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:7] == [learning_rate] * 7


def test_one_answer_more_to_one_seed_shows_no_gain():
    """It is one standard error, which rounding makes a little more or less."""
    found = set()
    for seeds in range(16, 33):
        for right in range(16):
            before = [right / 16] * seeds
            errors = paired_change([(right + 1) / 16, *before[1:]], before)[1]
            assert math.isclose(errors, 1.0) and errors <= SHOWN
            found.add(errors > 1.0)
    assert found == {True, False}

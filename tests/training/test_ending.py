"""A run that ends before its time leaves all that it has trained, and goes on to the same end."""

import os
import signal
from contextlib import nullcontext

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights
from run_tiny import SameCompletions
from test_resume import SCHEDULE as WITH_CHECKPOINTS
from transformers import TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.evaluation.model_index import BACK_TO
from serl_trl.self_play.loop import DryBatchError
from serl_trl.training.checkpoints import last_checkpoint


SCHEDULE = WITH_CHECKPOINTS | {"save_steps": 500}  # none unless the run ends


class Faulty(SeRLTrainer):
    """A trainer in which something happens when the engine samples, or the loss is computed, for the n-th time."""

    def __init__(self, *args, place: str = "", count: int = 0, happens=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.place, self.count, self.happens = place, count, happens

    def reach(self, place: str) -> None:
        if self.place == place:
            self.count -= 1
            if self.count == 0:
                self.happens()

    def _generate_single_turn(self, *args, **kwargs):
        self.reach("sampling")
        return super()._generate_single_turn(*args, **kwargs)

    def compute_loss(self, *args, **kwargs):
        self.reach("loss")
        return super().compute_loss(*args, **kwargs)


class AtStepEnd(TrainerCallback):
    """A callback of the user's in which something happens after step 7."""

    def __init__(self, happens):
        self.happens = happens

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            self.happens()


def fail():
    raise RuntimeError("it broke")


def sent(number: int):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("whole")
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **SCHEDULE), tiny_seeds())
    trainer.train()
    return output_dir, weights(trainer.model)


@pytest.mark.parametrize(
    ("place", "count", "happens", "raised"),
    [
        ("sampling", 6, sent(signal.SIGTERM), SystemExit),  # in a round: the round is done, the step is dropped
        ("sampling", 6, sent(signal.SIGHUP), SystemExit),  # a terminal that is closed
        ("loss", 7, sent(signal.SIGINT), KeyboardInterrupt),  # Ctrl-C in a step: the step is done
        ("sampling", 6, fail, RuntimeError),  # an engine that fails
        ("loss", 7, fail, RuntimeError),  # out of memory, say, in the middle of a cycle
        ("callback", 0, fail, RuntimeError),  # a callback of the user's
        ("callback", 0, sent(signal.SIGTERM), SystemExit),
    ],
)
def test_an_end_before_its_time_costs_no_step(whole_run, tmp_path, capfd, place, count, happens, raised):
    output_dir, final_weights = whole_run
    callbacks = [AtStepEnd(happens)] if place == "callback" else None
    trainer = Faulty(
        str(TINY_MODEL),
        tiny_config(tmp_path, **SCHEDULE),
        tiny_seeds(),
        callbacks=callbacks,
        place=place,
        count=count,
        happens=happens,
    )
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(raised) as error:
        trainer.train()
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    step = trainer.state.global_step
    said = "".join(getattr(error.value, "__notes__", [])) + capfd.readouterr().out
    assert 0 < step < 10 and f"its last checkpoint is {tmp_path}/checkpoint-{step}. To go on" in said
    resumed = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **SCHEDULE), tiny_seeds())
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(old, new) for old, new in zip(final_weights, weights(resumed.model), strict=True))
    assert ledger_rows(tmp_path) == ledger_rows(output_dir)


def test_weights_in_the_middle_of_an_update_are_not_saved(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **SCHEDULE | {"save_steps": 3}), tiny_seeds())
    trainer.create_optimizer()
    trainer.optimizer.register_step_post_hook(lambda *_: fail() if trainer.state.global_step == 4 else None)
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    assert "is at step 4, and its last checkpoint is" in error.value.__notes__[-1]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path, capfd):
    def twice():
        sent(signal.SIGINT)()
        sent(signal.SIGINT)()

    config = tiny_config(tmp_path, **SCHEDULE | {"save_steps": 2})
    trainer = Faulty(str(TINY_MODEL), config, tiny_seeds(), place="loss", count=4, happens=twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (
        f"Ended at once. The run is at step 3, and its last checkpoint is {tmp_path}/checkpoint-2."
        in capfd.readouterr().out
    )
    assert not (tmp_path / "checkpoint-3").exists()


def test_without_checkpoints_it_says_so(tmp_path):
    config = tiny_config(tmp_path, **SCHEDULE | {"save_strategy": "no"})
    trainer = Faulty(str(TINY_MODEL), config, tiny_seeds(), place="loss", count=4, happens=fail)
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    assert error.value.__notes__ == [
        "The run is at step 3, and it has no checkpoint to go on from, since save_strategy is 'no'."
    ]


def stop(args, state, control):
    control.should_training_stop = True


BEST = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "pass@1"}


@pytest.mark.parametrize(
    ("settings", "happens"),
    [
        (
            {"save_strategy": "best", **BEST, "eval_steps": 1},
            sent(signal.SIGTERM),
        ),  # the evaluation of that step decides
        # Trainer keeps the best one alone at its end.
        ({"load_best_model_at_end": True, "save_total_limit": 1, "save_steps": 2, **BEST}, sent(signal.SIGTERM)),
        ({"save_strategy": "epoch"}, sent(signal.SIGTERM)),
        ({}, stop),  # a callback's time limit or early stopping
    ],
)
def test_every_end_leaves_a_checkpoint_of_the_last_step(tmp_path, settings, happens):
    class AtStep7(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                happens(args, state, control) if happens is stop else happens()

    labelled = [{"instruction": "what is 2 plus 3 ?", "answer": "5"}]
    trainer = SeRLTrainer(
        str(TINY_MODEL), tiny_config(tmp_path, **SCHEDULE | settings), tiny_seeds(), labelled, callbacks=[AtStep7()]
    )
    with nullcontext() if happens is stop else pytest.raises(SystemExit):
        trainer.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-7")


class Agreeing(SameCompletions):
    """A sampler of which `share` completions of four agree from step 3 on."""

    def __init__(self, trainer, share: int):
        super().__init__(trainer)
        self.share = share

    def sample(self, prompt_ids, num_completions, settings=None):
        groups = super().sample(prompt_ids, num_completions, settings)
        if self.step < 3 or num_completions == 1:
            return groups
        return [[group[0]] * self.share + [group[-1]] * (num_completions - self.share) for group in groups]


@pytest.mark.parametrize(
    ("share", "learnt"),
    [(4, True), (2, False)],  # all agree: it has learnt its seeds; half of them do: too few
)
def test_a_dry_batch_ends_the_training_with_what_it_has(tmp_path, caplog, share, learnt):
    settings = SCHEDULE | {"max_pass_rate": 0.8, "min_pass_rate": 0.7, "max_rounds": 2}
    settings |= {"instruction_source": "seeds"}  # its sampler writes no instructions
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings), tiny_seeds())
    trainer.loader.sampler = trainer.loader.source.sampler = Agreeing(trainer, share)
    result = trainer.train()
    assert 0 < result.global_step < 10 and trainer.ending.dry.learnt == learnt
    assert (tmp_path / f"checkpoint-{result.global_step}" / "model.safetensors").exists()
    assert "2 rounds of self-instruction (max_rounds) did not fill" in caplog.text
    assert ("learnt its seeds" in trainer.ending.why()) == trainer.ending.has_learnt == learnt
    trainer.state.log_history.append({BACK_TO: 0.0, "step": result.global_step})  # as the sentinel logs it
    assert not trainer.ending.has_learnt and ("earlier weights are back" in trainer.ending.why()) == learnt


def test_a_dry_first_batch_raises_since_nothing_was_trained(tmp_path):
    config = tiny_config(tmp_path, max_rounds=1, gradient_accumulation_steps=50)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    with pytest.raises(DryBatchError, match="did not fill generation batch 1 with its"):
        trainer.train()

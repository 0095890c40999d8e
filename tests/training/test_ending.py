"""A run that ends before its time leaves all that it has trained, and goes on to the same end."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, ledger_rows, tiny_config, tiny_seeds, weights
from run_tiny import SameCompletions
from transformers import TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.self_play.loop import DryBatchError
from serl_trl.training.checkpoints import last_checkpoint


# As in test_resume.py a cycle of 4 optimizer steps, but no checkpoint unless the run ends.
SCHEDULE = {
    "gradient_accumulation_steps": 1,
    "generation_batch_size": 8,
    "num_iterations": 2,
    "max_steps": 10,
    "save_strategy": "steps",
    "save_steps": 500,
    "min_pass_rate": 0.4,
    "max_pass_rate": 1.0,
}


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
    assert ("learnt its seeds" in caplog.text) == learnt


def test_a_dry_first_batch_raises_since_nothing_was_trained(tmp_path):
    config = tiny_config(tmp_path, max_rounds=1, gradient_accumulation_steps=50)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    with pytest.raises(DryBatchError, match="did not fill generation batch 1 with its"):
        trainer.train()


def start(output_dir, *launcher, **settings) -> subprocess.Popen:
    """Start `serl-trl train` on the tiny model, and wait until it has sampled a batch."""
    seeds = output_dir.parent / "seeds.jsonl"
    tiny_seeds().to_json(seeds)
    settings = (
        TINY_SETTINGS
        | {"save_strategy": "steps", "max_steps": 5000, "min_pass_rate": 0.4, "max_pass_rate": 1.0}
        | settings
    )
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, *launcher, "-m", "serl_trl.train", "--model_name_or_path", str(TINY_MODEL)]
    command += ["--seeds", str(seeds), "--output_dir", str(output_dir), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: any((output_dir / "_ledger").glob("batch-*.parquet")))
    return process


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_ctrl_c_leaves_no_traceback(tmp_path):
    process = start(tmp_path / "run", gradient_accumulation_steps=200)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    # -2: it came when Python was shutting down.
    assert process.returncode in (130, -2) and "Traceback" not in stderr, stderr[-2000:]
    assert "SIGINT: training ends after this step or round" in stderr and "Ended" in stdout


def test_a_dry_run_saves_its_model_and_has_an_exit_code_of_its_own(tmp_path):
    # The tiny world has 200 questions: soon there are no new ones.
    process = start(tmp_path / "run", max_rounds=4, max_steps=400)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr[-2000:]
    assert "Some of its instructions:" in stdout  # the summary
    assert "since it no longer finds instructions to train on." in stdout.splitlines()[-1]
    assert "Raise instruction_temperature or diversity_threshold, or add seeds." in stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "README.md", "trainer_state.json", "_ledger"} <= names


def test_a_trainer_ends_with_its_launcher(tmp_path):
    process = start(tmp_path / "run", "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu")
    process.terminate()  # accelerate launch does not pass it on
    process.wait(timeout=30)
    wait_until(lambda: any((tmp_path / "run").glob("checkpoint-*/trainer_state.json")), 60)


def run_two(output_dir, **settings) -> list[str]:
    """Return the command that trains with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*command, str(ROOT / "tests" / "run_tiny.py"), str(output_dir), json.dumps(SCHEDULE | settings)]


@pytest.mark.distributed
def test_an_engine_that_fails_on_one_process_ends_both_with_a_checkpoint(tmp_path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = run_two(tmp_path, fails_on=1)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode != 0 and time.time() - (tmp_path / "failed").stat().st_mtime < 60
    assert "EngineError: process 1: RuntimeError: the engine broke" in result.stderr
    assert "its last checkpoint is" in result.stderr and len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.distributed
def test_a_signal_ends_both_processes_at_the_same_step(tmp_path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = run_two(tmp_path, max_steps=5000)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: (tmp_path / "_ledger" / "batch-000001.parquet").exists())
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert f"Ended by SIGTERM. The run is at step {checkpoint.name.split('-')[1]}," in stdout, stderr[-2000:]
    assert len(list(checkpoint.glob("serl_rollouts_*.safetensors"))) == 2

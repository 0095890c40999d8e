"""Replicas of an engine in processes of their own: all work is shared out, and no end of one is missed."""

import os
import signal
import time
from contextlib import closing

import pytest

from serl_trl.engine.replicas import Replicas


PROMPTS = [[number] for number in range(7)]


def load_echo():
    """An engine whose completions say what the process was asked."""

    def sample(prompt_ids, num_completions, done):
        for number in range(len(prompt_ids)):
            if number not in done:
                yield number, [(number, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"])] * num_completions

    return sample


def load_broken():
    raise RuntimeError("no memory")


def load_one_that_fails():
    def sample(prompt_ids, num_completions, done):
        yield min(set(range(len(prompt_ids))) - set(done)), []
        raise RuntimeError("bad prompt")

    return sample


def load_endless():
    def sample(prompt_ids, num_completions, done):
        yield os.getpid(), []
        time.sleep(600)

    return sample


def test_prompts_are_shared_out_and_done_ones_left_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    with closing(Replicas(load_echo, 2, 2)) as replicas:
        for done, missing in ([2, 3], {0, 1, 4, 5, 6}), (range(7), set()), ([], set(range(7))):  # one after another
            sampled = dict(replicas(PROMPTS, 3, done))
            assert set(sampled) == missing
            assert all(completions == [(number, *completions[0][1:])] * 3 for number, completions in sampled.items())
            places = {completions[0][1:] for completions in sampled.values()}
            assert {gpus for _, gpus in places} == ({"3,5", "6,7"} if missing else set()) and len(places) <= 2
    assert not any(process.is_alive() for process in replicas.processes.values())


@pytest.mark.parametrize(
    ("load", "message"), [(load_broken, "RuntimeError: no memory"), (load_one_that_fails, "RuntimeError: bad prompt")]
)
def test_an_error_in_one_ends_the_evaluation(load, message):
    with closing(Replicas(load, 2, 1)) as replicas, pytest.raises(ChildProcessError, match=f"has ended: {message}"):
        list(replicas(PROMPTS, 1, []))
    assert not any(process.is_alive() for process in replicas.processes.values())


def test_a_killed_one_ends_the_evaluation():
    with closing(Replicas(load_endless, 2, 1)) as replicas:
        sampled = replicas(PROMPTS, 1, [])
        os.kill(next(sampled)[0], signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"it was killed \(exit code -9\)"):
            list(sampled)
    assert not any(process.is_alive() for process in replicas.processes.values())

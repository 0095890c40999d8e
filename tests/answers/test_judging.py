"""A vote always returns, whatever a model writes, and honest answers win."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from hostile import CORPUS, SEEN, boxed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serl_trl import accuracy_reward, majority_vote
from serl_trl.answers.judging import judge_group
from serl_trl.answers.voting import true_answer_rewards
from serl_trl.evaluation.results import score


BUDGET = 2.0  # seconds; what a vote may take beyond it is 2 s
HONEST = boxed("\\frac{17}{2}", "8.5", "17/2")
PROPERTY = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def timed_vote(completions: list[str], budget: float = BUDGET, **arguments):
    """Return the vote, after checking that it came in time and is one."""
    start = time.monotonic()
    vote = majority_vote(completions, max_seconds=budget, **arguments)
    assert time.monotonic() - start < budget + 2
    assert len(vote.rewards) == len(vote.answers) == len(vote.timed_out) == len(completions)
    assert set(vote.rewards) <= {0.0, 1.0}
    assert all(answer is None for answer, over in zip(vote.answers, vote.timed_out, strict=True) if over)
    return vote


def hostile_groups(seed: int) -> list[list[str]]:
    """Return the corpus in groups of 16, each with 3 honest completions at random places."""
    draw = random.Random(seed)
    texts = draw.sample(CORPUS, len(CORPUS))
    groups = [texts[start : start + 13] + HONEST for start in range(0, len(texts), 13)]
    return [draw.sample(group, len(group)) for group in groups]


def assert_honest_wins(vote, completions: list[str]) -> None:
    assert [vote.rewards[completions.index(text)] for text in HONEST] == [1.0, 1.0, 1.0], vote


@pytest.fixture(scope="module", autouse=True)
def started():
    majority_vote(boxed("1", "1/2"))  # the first vote of a process imports math-verify in another one


def test_the_corpus_is_large():
    assert len(set(CORPUS)) >= 200


def test_honest_answers_win_beside_hostile_ones():
    groups = hostile_groups(seed=0)[:2] + [SEEN + boxed("9^{9^{9^{9}}}", "\\sum_{k=1}^{10^{30}} k^k") + HONEST]
    for completions in groups:
        assert_honest_wins(timed_vote(completions), completions)


@pytest.mark.long
def test_honest_answers_win_beside_each_of_the_corpus():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in CORPUS:
        completions = [text, *HONEST]
        assert_honest_wins(timed_vote(completions), completions)
    for completions in hostile_groups(seed=1):
        assert_honest_wins(timed_vote(completions, budget=10.0), completions)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB on Linux: the trainer's share


@settings(max_examples=6, **PROPERTY)
@given(st.lists(st.one_of(st.sampled_from(CORPUS), st.text(max_size=50), st.sampled_from(HONEST)), max_size=16))
def test_every_group_has_a_vote(completions):
    timed_vote(completions, budget=1.0)


@pytest.mark.long
@settings(max_examples=100, **PROPERTY)
@given(st.lists(st.one_of(st.sampled_from(CORPUS), st.text(), st.sampled_from(HONEST)), max_size=16))
def test_every_group_of_many_has_a_vote(completions):
    timed_vote(completions, budget=1.0)


ORDINARY = boxed(
    *("7", "7.0", "1/2", "0.5", "\\frac12", "0.333333", "0.3333333", "\\frac{1}{3}", "x+1", "1+x", "2^{10}", "1024"),
    *("50\\%", "\\sqrt{2}", "1.414214", "1.4142136", "(1,2)", "\\{1,2\\}", "x=7", "C", "9^{9^9}", "10!", ""),
) + ["7", "I don't know"]


@settings(max_examples=25, **PROPERTY)
@given(st.lists(st.sampled_from(ORDINARY), max_size=16), st.randoms(use_true_random=False))
def test_classes_do_not_depend_on_the_order(completions, draw):
    shuffled = draw.sample(completions, len(completions))

    def classes(texts):
        return sorted(sorted(texts[index] for index in members) for members in judge_group(texts).classes)

    assert classes(completions) == classes(shuffled)


def test_identical_answers_need_no_comparison():
    vote = majority_vote(boxed(SEEN[0]) * 3)  # by the default budget: reading it takes 0.15 s of a fast core
    assert vote.pass_rate == 1.0 and not any(vote.timed_out)


@pytest.mark.parametrize("text", SEEN)
def test_the_true_answer_wins_beside_what_was_seen(text):
    completions = boxed("8.5", text, "8")
    vote = true_answer_rewards(completions, "8.5", max_seconds=BUDGET)
    assert vote.rewards == (1.0, 0.0, 0.0) and vote.pseudo_label == "8.5"
    row = score({"instruction": "", "level": None, "true_answer": "8.5"}, completions, max_seconds=BUDGET)
    assert row["correct"] == [1, 0, 0]


def test_over_budget_is_wrong_and_counted():
    vote = true_answer_rewards(boxed("8.5", "\\sum_{k=1}^{10^{30}} k^k"), "8.5", max_seconds=BUDGET)
    assert vote.rewards == (1.0, 0.0) and vote.timed_out == (False, True)
    assert accuracy_reward(boxed("8.5", "8"), ["8.5", None]) == [1.0, None]


def test_a_script_without_a_guard(tmp_path):
    # It runs once, and nothing of the workers is left when it is killed. Its format lies beside it.
    (tmp_path / "last.py").write_text(
        "import time\ndef word(text): return text.split()[-1] if text != 'hang' else time.sleep(100)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, signal, threading, time\n"
        "from serl_trl import majority_vote\n"
        "from serl_trl.answers import worker\n"
        "label = majority_vote(['so 5', '5', 'or 6'], answer_format='last:word').pseudo_label\n"
        "if os.fork() == 0:\n"
        "    os._exit(majority_vote(['so 5', '5'], answer_format='last:word').pseudo_label != '5')\n"
        "assert os.wait()[1] == 0\n"
        "threading.Thread(target=majority_vote, args=(['hang'],), kwargs={'answer_format': 'last:word'}).start()\n"
        "time.sleep(0.5)\n"
        "print(json.dumps([label, worker._nursery[0].pid]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    label, nursery = json.loads(ran.stdout)
    assert label == "5" and ran.returncode == -signal.SIGKILL and not ran.stderr
    deadline = time.monotonic() + 5
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(nursery, 0)  # it and its workers are a group
            time.sleep(0.1)


def test_votes_of_four_threads():
    votes = [None] * 4

    def take(number):
        votes[number] = timed_vote(boxed(*[SEEN[number], "\\sum_{k=1}^{10^{30}} k^k", "5", f"{number}.25"] * 2))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [vote.answers[3] for vote in votes] == ["0.25", "1.25", "2.25", "3.25"]


def test_alarms_of_the_process_stay():
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000)
        own = signal.getsignal(signal.SIGALRM)
        timed_vote(boxed("\\sum_{k=1}^{10^{30}} k^k", *["5"] * 3))
        assert signal.getsignal(signal.SIGALRM) is own and 900 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_a_killed_nursery_is_started_again():
    from serl_trl.answers import worker

    worker._nursery[0].kill()
    worker._nursery[0].wait()
    assert majority_vote(boxed("\\sum_{k=1}^{10^{30}} k^k", "5", "5.0"), max_seconds=10.0).rewards == (0, 1, 1)

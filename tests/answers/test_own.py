"""A function of the user's as a format: `my_module:read_answer`."""

import sys
import time

import pytest
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds

from serl_trl import accuracy_reward, majority_vote
from serl_trl.answers.judging import check_format


MINE = """
import os, signal, time
from fractions import Fraction

class Unshown:
    pass

def read_answer(text):
    while "hang" in text:
        pass
    if "wait" in text:
        time.sleep(100)
    if "fill" in text:
        bytearray(4 << 30)
    if "die" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in text:
        raise SystemExit
    if "fail" in text:
        raise RuntimeError("this function is broken")
    if "list" in text:
        return [text]
    if "unshown" in text:
        return Unshown()
    return {"nan": float("nan"), "none": None, "half": Fraction(1, 2), "0.5": 0.5, "one": 1, "true": True}.get(text, text)

def last_word(text):
    return text.split()[-1] if text.split() else None

def fails(text):
    return int("forty-two")

def unhashable(text):
    return {"answer": text}

def endless(text):
    while True:
        pass

not_a_function = 42
"""


@pytest.fixture(autouse=True)
def here(tmp_path_factory, monkeypatch):
    """Make the module importable from the working directory, and from there only. Python imports it once."""
    folder = tmp_path_factory.getbasetemp() / "own"
    if not folder.exists():
        folder.mkdir()
        (folder / "own_answers.py").write_text(MINE)
        (folder / "own_broken.py").write_text("import a_module_that_is_nowhere")
        (folder / "own_exit.py").write_text("raise SystemExit('no')")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("serl_trl.answers.judging._warned", set())


def timed_vote(completions: list[str]):
    start = time.monotonic()
    vote = majority_vote(completions, max_seconds=2.0, answer_format="own_answers:read_answer")
    assert time.monotonic() - start < 2.0 + 2
    return vote


@pytest.fixture(scope="module", autouse=True)
def started():
    majority_vote(["\\boxed{1}"])  # the first vote of a process imports math-verify in another one


@pytest.mark.parametrize(
    ("bad", "timed_out"),
    [
        ("hang", True),
        ("wait", True),  # which uses no CPU time
        pytest.param(
            "fill", True, marks=pytest.mark.skipif(sys.platform == "darwin", reason="has no limit of memory")
        ),
        ("die", True),
        ("exit", True),
        ("fail", False),  # read in time, with no answer
        ("list", False),  # not hashable
        ("unshown", False),  # another text each time
        ("nan", False),  # equals nothing
        ("none", False),
    ],
)
def test_it_has_the_budget_of_the_others(bad, timed_out):
    vote = timed_vote(["a", bad, "b", "a", bad])
    assert vote.rewards == (1, 0, 0, 1, 0) and vote.answers[1] is None
    assert vote.timed_out == (False, timed_out, False, False, timed_out)


def test_answers_are_equal_as_in_python():
    vote = timed_vote(["half", "0.5", "one", "half", "true"])
    assert vote.answers == ("Fraction(1, 2)", "0.5", "1", "Fraction(1, 2)", "True")
    assert vote.rewards == (1, 1, 0, 1, 0)
    assert timed_vote(["one", "true", "b"]).rewards == (1, 1, 0)


def test_half_of_a_surrogate_pair_is_written_out():
    assert timed_vote(["\ud800", "\ud800"]).pseudo_label == "\\ud800"


def test_its_first_error_is_logged_with_where_it_was(caplog):
    for _ in range(2):
        timed_vote(["fail", "fail again", "list"])
    (record,) = caplog.records
    assert "own_answers:read_answer has raised an error" in record.getMessage()
    assert "own_answers.py" in record.getMessage() and "this function is broken" in record.getMessage()


def test_true_answers_are_read_by_it():
    formats = ["own_answers:last_word"] * 2
    assert accuracy_reward(["I say Paris", "no"], ["Paris"] * 2, formats) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer_format", "message"),
    [
        ("nowhere:read_answer", "importing 'nowhere' raises ModuleNotFoundError.* Put nowhere.py into the working directory"),
        ("own_broken:read_answer", "importing 'own_broken' raises .* No module named 'a_module_that_is_nowhere'"),
        ("own_exit:read_answer", "importing 'own_exit' raises SystemExit: no"),
        ("own_answers:nothing", "'own_answers' has no function 'nothing'"),
        ("own_answers:not_a_function", "'own_answers' has no function 'not_a_function'"),
        ("own_answers:fails", "fails: ValueError: invalid literal for int.*forty-two.* Let it return a hashable answer"),
        ("own_answers:unhashable", "fails: TypeError: unhashable type: 'dict'"),
        ("own_answers:endless", "takes too long: .* Make it quicker"),
        ("own answers:read", "Set it to one of math, choice, text, number, json, or to module:function"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_the_start(tmp_path, answer_format, message):
    with pytest.raises(ValueError, match=f"answer_format is '{answer_format}'.*{message}"):
        check_format(answer_format)
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, answer_format=answer_format)


def test_the_tiny_model_trains_by_it(tmp_path):
    from serl_trl import SeRLTrainer

    config = tiny_config(tmp_path, answer_format="own_answers:last_word")
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    trainer.train()
    trained = [row for row in ledger_rows(tmp_path) if row["fate"] == "trained"]
    assert trained and all(row["pseudo_label"] in row["answers"] for row in trained)
    assert trainer.state.global_step == 3
    assert tiny_config(tmp_path, answer_format="own_answers:last_word", prompt_template=None).prompt_template == "text"

"""Read and compare the answers of one group within a budget of time.

What a model writes can take sympy for ever, so a [`Worker`] does it, and what takes too long is given up. All that is quick
comes first, so that bad answers leave the others their time.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .formats import find_format, is_own
from .in_worker import equal_answers, load_format, read_answer
from .worker import LOAD_SECONDS, OverBudget, Worker, borrowed_worker


logger = logging.getLogger(__name__)

MAX_VOTE_SECONDS = 10.0
_SHARES = (0.01, 0.1)  # of the budget, for one call: first for all that is quick, then for what was not
_MAX_OVER = 2  # pairs over budget after which an answer is compared no more
_PROBE = "1"  # the answer of a format's probe
_SAMPLE = "So it is \\boxed{42}."
_warned: set[str] = set()  # formats of the user's that have raised an error


@dataclass(frozen=True)
class Judged:
    """What a group of n completions answers.

    Attributes:
        answers (`tuple[str | None, ...]`): Shape (n,), the answer of each completion, `None` where it abstains.
        classes (`list[list[int]]`):
            Indices of equal answers, classes and members in order of appearance; those that abstain are left out.
        correct (`tuple[bool, ...]`): Shape (n,), whether each answer equals the true one; all `False` without one.
        timed_out (`tuple[bool, ...]`): Shape (n,), whether it abstains because it was over the budget.
        label (`str | None`): The true answer as it is read, if there is one.
    """

    answers: tuple[str | None, ...]
    classes: list[list[int]]
    correct: tuple[bool, ...]
    timed_out: tuple[bool, ...]
    label: str | None


def judge_group(
    completions: Sequence[str],
    truncated: Sequence[bool] | None = None,
    answer_format: str = "math",
    max_seconds: float = MAX_VOTE_SECONDS,
    true_answer: str | None = None,
    vote: bool = True,
) -> Judged:
    """Read the answers of a group, compare them with `true_answer` if there is one, and with each other if there is a vote.

    The other arguments, and the errors, are those of [`majority_vote`] and [`true_answer_rewards`].
    """
    if truncated is None:
        truncated = [False] * len(completions)
    if len(truncated) != len(completions):
        raise ValueError(
            f"truncated has {len(truncated)} entries for {len(completions)} completions. Pass one for each."
        )
    texts = [None if cut else text for text, cut in zip(completions, truncated, strict=True)]
    with borrowed_worker() as worker:
        judge = _Judge(worker, answer_format, max_seconds, true_answer, vote)
        judge.judge([text for text in texts if text is not None])
    number_of = {answer: number for number, members in enumerate(judge.classes) for answer in members}
    found = [judge.answers.get(text) for text in texts]
    classes: dict[int, list[int]] = {}
    for index, answer in enumerate(found):
        if answer in number_of:
            classes.setdefault(number_of[answer], []).append(index)
    return Judged(
        answers=tuple(answer if answer in number_of else None for answer in found),
        classes=list(classes.values()),
        correct=tuple(true_answer is not None and number_of.get(answer) == 0 for answer in found),
        timed_out=tuple(text in judge.over_budget for text in texts),
        label=judge.label,
    )


def check_format(answer_format: str) -> None:
    """Try a format of the user's on a text, as a vote would.

    Raises:
        ValueError: if there is no such format, or if the user's can't be imported, fails, or takes too long.
    """
    find_format(answer_format)
    if not is_own(answer_format):
        return
    what = f"answer_format is {answer_format!r}, which"
    with borrowed_worker() as worker:
        try:
            judge = _Judge(worker, answer_format, MAX_VOTE_SECONDS, None)
        except OverBudget as error:
            raise ValueError(f"{what} can't be imported: {error} Let its module import less.") from error
        try:
            judge.call(read_answer, _SAMPLE, False)
        except OverBudget as error:
            raise ValueError(f"{what} is given {_SAMPLE!r}, and takes too long: {error} Make it quicker.") from error
        except ValueError as error:
            *_, last = str(error).strip().splitlines()
            raise ValueError(
                f"{what} is given {_SAMPLE!r}, and fails: {last}. Let it return a hashable answer, or None."
            ) from error


def read_true_answer(true_answer: str, answer_format: str = "math") -> str:
    """Return a true answer as it is read, by [`parse_true_answer`], with its errors."""
    with borrowed_worker() as worker:
        return _Judge(worker, answer_format, MAX_VOTE_SECONDS, true_answer).label


class _Judge:
    """The work on one group; nothing in it depends on the order of the completions.

    Attributes:
        answers (`dict[str, str | None]`): The answer of each text that was read.
        classes (`list[list[str]]`): Equal answers, each compared with the first. The true answer begins the first class.
        over_budget (`set[str]`): Texts that abstain because reading or comparing them was over the budget.
    """

    def __init__(
        self, worker: Worker, answer_format: str, max_seconds: float, true_answer: str | None, vote: bool = True
    ):
        self.worker, self.answer_format, self.max_seconds, self.vote = worker, answer_format, max_seconds, vote
        self.format = find_format(answer_format)
        self.answers: dict[str, str | None] = {}
        probe = self.format.probe
        self.sources = {_PROBE: (probe, False)} if probe else {}  # where each was read; whether that is a true answer
        self.comparable, self.over = set(self.sources), Counter()
        try:
            self.start_worker()
        except OverBudget:  # it has ended since its last call
            self.start_worker()
        self.share, self.deadline = _SHARES[-1], time.monotonic() + max_seconds
        self.label = None if true_answer is None else self.read_label(true_answer)
        self.classes = [] if self.label is None else [[self.label]]

    def start_worker(self) -> None:
        path = [os.getcwd(), *sys.path] if is_own(self.answer_format) else []
        arguments = load_format, self.answer_format, path
        if self.worker.connection is None:
            self.worker.start(*arguments)
        self.worker.call(*arguments, seconds=LOAD_SECONDS, cpu_seconds=LOAD_SECONDS)

    def call(self, function: Callable, *arguments):
        """Call the worker, for the present share of the budget at most."""
        if time.monotonic() >= self.deadline:
            raise OverBudget("The budget of the group is spent.")
        if self.worker.connection is None:
            self.start_worker()
        # Half of what is left: a call that only waits uses no CPU time, and would leave the others none.
        seconds = max(self.deadline - time.monotonic(), 0.0) / 2
        cpu_seconds = self.share * self.max_seconds
        return self.worker.call(function, *arguments, self.answer_format, seconds=seconds, cpu_seconds=cpu_seconds)

    def read_label(self, true_answer: str) -> str:
        try:
            text, comparable = self.call(read_answer, true_answer, True)
        except OverBudget as error:
            logger.warning("A true answer can only be compared as it is written: %s", error)
            text, comparable = true_answer, False
        self.remember(text, comparable, (true_answer, True))
        return text

    def judge(self, texts: Sequence[str]) -> None:
        """Read the texts and sort their answers into classes."""
        for share in _SHARES:
            self.share = share
            for text in sorted(set(texts) - self.answers.keys()):
                self.read(text)
            counts = Counter(self.answers[text] for text in texts if self.answers.get(text) is not None)
            waiting = sorted(
                counts.keys() - self.placed(), key=lambda text: (not self.quick(text), -counts[text], text)
            )
            if self.format.probe and not self.classes and len(waiting) > 1 and not self.quick(waiting[0]):
                self.classes.append([_PROBE])  # nobody's: what takes too long beside it is to blame itself
            for answer in waiting:
                self.place(answer)
        self.over_budget = {text for text in texts if self.answers.get(text, "") not in {None} | self.placed()}

    def placed(self) -> set[str]:
        return {answer for members in self.classes for answer in members}

    def read(self, text: str) -> None:
        try:
            found = self.call(read_answer, text, False)
        except OverBudget:
            return
        except ValueError as error:
            if is_own(self.answer_format):
                self.answers[text] = None
                _warn_once(self.answer_format, error)
            else:
                logger.warning("An answer abstains, since reading it failed: %s", error)
            return
        self.answers[text] = None if found is None else found[0]
        if found:
            self.remember(*found, (text, False))

    def remember(self, answer: str, comparable: bool, source: tuple[str, bool]) -> None:
        self.sources.setdefault(answer, source)
        if comparable:
            self.comparable.add(answer)

    def place(self, answer: str) -> None:
        """Put an answer into the class that it equals or a new one; into none if that takes too long."""
        for members in self.classes if self.vote else self.classes[:1]:
            equal = self.equal(members[0], answer)
            if equal is None:
                return
            if equal:
                members.append(answer)
                return
        self.classes.append([answer])

    def quick(self, answer: str) -> bool:
        """Return whether an answer can be compared without the worker, with others that can."""
        return self.format.quick_equal(answer, _PROBE) is not None

    def equal(self, first: str, answer: str) -> bool | None:
        """Return whether an answer equals the first of a class, `None` if it is the one that takes too long."""
        quick = self.format.quick_equal(first, answer)
        if quick is not None:
            return quick
        if not {first, answer} <= self.comparable:
            return False
        if max(self.over[first], self.over[answer]) >= _MAX_OVER:
            return False
        try:
            return self.call(equal_answers, self.sources[first], self.sources[answer])
        except (OverBudget, ValueError):
            if self.share < _SHARES[-1] or self.quick(first) or first == self.label:
                return None
            self.over.update([first, answer])
            return False


def _warn_once(answer_format: str, error: ValueError) -> None:
    if answer_format not in _warned:
        _warned.add(answer_format)
        logger.warning(
            "An answer abstains, since %s has raised an error. Others like it abstain without a word. %s",
            answer_format,
            error,
        )

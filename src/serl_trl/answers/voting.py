"""Majority vote over the completions of one instruction."""

from collections.abc import Sequence
from dataclasses import dataclass

from .judging import MAX_VOTE_SECONDS, judge_group


@dataclass(frozen=True)
class Vote:
    """What a group of n completions answers, and which of them are rewarded (SeRL, self-rewarding).

    Attributes:
        answers (`tuple[str | None, ...]`): Shape (n,), the answer of each completion, `None` where it abstained.
        rewards (`tuple[float, ...]`): Shape (n,), 1.0 where the answer equals the label, else 0.0.
        pseudo_label (`str | None`):
            The majority's answer; `None` if no answer was parsed or no two completions agree. Where true answers are
            the labels, the true answer.
        pass_rate (`float`): Share of the group that gave the label, in [0, 1]: the mean of `rewards`.
        timed_out (`tuple[bool, ...]`):
            Shape (n,), whether a completion abstained because its answer was over the budget of time or memory.
    """

    answers: tuple[str | None, ...]
    rewards: tuple[float, ...]
    pseudo_label: str | None
    pass_rate: float
    timed_out: tuple[bool, ...] = ()


def majority_vote(
    completions: Sequence[str],
    *,
    truncated: Sequence[bool] | None = None,
    answer_format: str = "math",
    max_seconds: float = MAX_VOTE_SECONDS,
) -> Vote:
    """Vote over the answers of a group of completions.

    Equal answers form a class, found by comparing with one answer of each class; the largest class wins, the one that
    appeared first where several are as large, and else the order of the completions has no influence. A completion
    abstains (no vote, reward 0) if no answer can be read, if it was truncated, or if its answer was over the budget: a
    call of a killable process, 2 GB of memory, or `max_seconds`. Without two completions that agree there is no
    pseudo-label, and all rewards are 0.

    Args:
        completions (`Sequence[str]`): Texts of the n completions of one instruction, without the instruction.
        truncated (`Sequence[bool]`, *optional*): Shape (n,), whether each was cut off by the length limit.
        answer_format (`str`, *optional*, defaults to `"math"`): See [`parse_answer`].
        max_seconds (`float`, *optional*, defaults to 10.0):
            What the group may take by the clock, > 0. One answer takes at most a tenth of it in CPU time, at each of
            reading and comparing.

    Returns:
        [`Vote`]: With `answers`, `rewards` and `timed_out` of shape (n,) and `pass_rate` in [0, 1].

    Raises:
        ValueError: if `truncated` has another length than `completions`.

    Source: SeRL, self-rewarding. On 125 groups of the published code the rewards are exactly its own.
    """
    judged = judge_group(completions, truncated, answer_format, max_seconds)
    majority = max(judged.classes, key=len, default=[])  # the first of the largest
    if len(majority) < 2:
        majority = []
    rewards = tuple(float(index in majority) for index in range(len(completions)))
    label = judged.answers[majority[0]] if majority else None
    return Vote(judged.answers, rewards, label, _mean(rewards), judged.timed_out)


def true_answer_rewards(
    completions: Sequence[str],
    true_answer: str,
    *,
    truncated: Sequence[bool] | None = None,
    answer_format: str = "math",
    max_seconds: float = MAX_VOTE_SECONDS,
) -> Vote:
    """Return the rewards by the true answer, which nobody voted for: 1 where a completion gives it, for comparison.

    Arguments, shapes and errors as in [`majority_vote`]; `true_answer` as in [`accuracy_reward`]. A truncated
    completion gets 0 here too, and so does one over the budget.
    """
    judged = judge_group(completions, truncated, answer_format, max_seconds, true_answer, vote=False)
    rewards = tuple(float(right) for right in judged.correct)
    return Vote(judged.answers, rewards, judged.label, _mean(rewards), judged.timed_out)


def _mean(rewards: Sequence[float]) -> float:
    return sum(rewards) / len(rewards) if rewards else 0.0

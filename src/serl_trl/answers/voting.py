"""Majority vote over the completions of one instruction."""

from collections.abc import Sequence
from dataclasses import dataclass

from .comparing import answers_equal
from .reading import Answer, parse_answer, parse_true_answer


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
    """

    answers: tuple[str | None, ...]
    rewards: tuple[float, ...]
    pseudo_label: str | None
    pass_rate: float


def majority_vote(
    completions: Sequence[str], *, truncated: Sequence[bool] | None = None, answer_format: str = "math"
) -> Vote:
    """Vote over the answers of a group of completions.

    Equal answers form a class, found by comparing with the first of each class; the largest class wins, the one that
    appeared first where several are as large. A completion abstains (no vote, reward 0) if no answer can be read or
    if it was truncated. Without two completions that agree there is no pseudo-label, and all rewards are 0.

    Args:
        completions (`Sequence[str]`): Texts of the n completions of one instruction, without the instruction.
        truncated (`Sequence[bool]`, *optional*): Shape (n,), whether each was cut off by the length limit.
        answer_format (`str`, *optional*, defaults to `"math"`): See [`parse_answer`].

    Returns:
        [`Vote`]: With `answers` and `rewards` of shape (n,) and `pass_rate` in [0, 1].

    Raises:
        ValueError: if `truncated` has another length than `completions`.

    Source: SeRL, self-rewarding. On 125 groups of the published code the rewards are exactly its own.
    """
    answers = read_answers(completions, truncated, answer_format)
    majority = max(answer_classes(answers), key=len, default=[])  # the first of the largest
    if len(majority) < 2:
        majority = []
    return Vote(
        answers=tuple(_text(answer) for answer in answers),
        rewards=tuple(float(index in majority) for index in range(len(answers))),
        pseudo_label=answers[majority[0]].text if majority else None,
        pass_rate=len(majority) / len(answers) if answers else 0.0,
    )


def true_answer_rewards(
    completions: Sequence[str],
    true_answer: str,
    *,
    truncated: Sequence[bool] | None = None,
    answer_format: str = "math",
) -> Vote:
    """Return the rewards by the true answer, which nobody voted for: 1 where a completion gives it, for comparison.

    Arguments, shapes and errors as in [`majority_vote`]; `true_answer` as in [`accuracy_reward`]. A truncated
    completion gets 0 here too.
    """
    label = parse_true_answer(true_answer, answer_format)
    answers = read_answers(completions, truncated, answer_format)
    rewards = tuple(float(answer is not None and answers_equal(label, answer)) for answer in answers)
    return Vote(tuple(_text(answer) for answer in answers), rewards, label.text, sum(rewards) / max(len(rewards), 1))


def read_answers(
    completions: Sequence[str], truncated: Sequence[bool] | None = None, answer_format: str = "math"
) -> list[Answer | None]:
    """Return the answer of each completion, `None` where it abstains; arguments as in [`majority_vote`]."""
    if truncated is None:
        truncated = [False] * len(completions)
    if len(truncated) != len(completions):
        raise ValueError(
            f"truncated has {len(truncated)} entries for {len(completions)} completions. Pass one for each."
        )
    return [
        None if cut else parse_answer(text, answer_format) for text, cut in zip(completions, truncated, strict=True)
    ]


def answer_classes(answers: Sequence[Answer | None]) -> list[list[int]]:
    """Return the indices of equal answers, classes and members in order of appearance; those that abstain are left out."""
    classes: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for members in classes:
            if answers_equal(answers[members[0]], answer):
                members.append(index)
                break
        else:
            classes.append([index])
    return classes


def _text(answer: Answer | None) -> str | None:
    return None if answer is None else answer.text

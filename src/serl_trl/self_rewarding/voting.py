"""Majority vote over the completions of one instruction."""

from collections.abc import Sequence

from ..types import Vote
from .answers import Answer, answers_equal, parse_answer


def majority_vote(completions: Sequence[str], *, truncated: Sequence[bool] | None = None) -> Vote:
    """Vote over the answers of a group of completions.

    Equal answers form a class, found by comparing with the first of each class; the largest class wins, the one that
    appeared first where several are as large. A completion abstains (no vote, reward 0) if no answer can be read or
    if it was truncated. Without two completions that agree there is no pseudo-label, and all rewards are 0.

    Args:
        completions (`Sequence[str]`): Texts of the n completions of one instruction, without the instruction.
        truncated (`Sequence[bool]`, *optional*): Shape (n,), whether each was cut off by the length limit.

    Returns:
        [`Vote`]: With `answers` and `rewards` of shape (n,) and `pass_rate` in [0, 1].

    Raises:
        ValueError: if `truncated` has another length than `completions`.

    Source: SeRL, self-rewarding. On 125 groups of the published code the rewards are exactly its own.
    """
    if truncated is None:
        truncated = [False] * len(completions)
    if len(truncated) != len(completions):
        raise ValueError(
            f"truncated has {len(truncated)} entries for {len(completions)} completions. Pass one for each."
        )
    answers = [None if cut else parse_answer(text) for text, cut in zip(completions, truncated, strict=True)]
    classes: list[list[int]] = []  # indices of equal answers, in order of appearance
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for members in classes:
            if answers_equal(answers[members[0]], answer):
                members.append(index)
                break
        else:
            classes.append([index])
    majority = max(classes, key=len, default=[])  # the first of the largest
    if len(majority) < 2:
        majority = []
    return Vote(
        answers=tuple(_text(answer) for answer in answers),
        rewards=tuple(float(index in majority) for index in range(len(answers))),
        pseudo_label=answers[majority[0]].text if majority else None,
        pass_rate=len(majority) / len(answers) if answers else 0.0,
    )


def _text(answer: Answer | None) -> str | None:
    return None if answer is None else answer.text

"""Reward functions with TRL's signature."""

from collections.abc import Sequence
from itertools import groupby

from .answers.voting import majority_vote, true_answer_rewards


def majority_vote_reward(
    prompts: Sequence,
    completions: Sequence,
    vote_reward: Sequence[float] | None = None,
    answer_format: Sequence[str] | None = None,
    **kwargs,
) -> list[float]:
    """Reward each completion for agreeing with the majority of its group.

    In [`SeRLTrainer`] the vote was taken when the completions were sampled, and is handed over as `vote_reward`. In a
    plain [`~trl.GRPOTrainer`], consecutive equal prompts form a group; there `per_device_train_batch_size *
    steps_per_generation` must be a multiple of `num_generations`, so that no group is split over processes.

    Args:
        prompts (`Sequence`): Shape (n,), conversations or texts.
        completions (`Sequence`): Shape (n,), conversations (one assistant message each) or texts.
        vote_reward (`Sequence[float]`, *optional*): Shape (n,), rewards already known.
        answer_format (`Sequence[str]`, *optional*):
            Shape (n,), the format of each row's answer (see [`parse_answer`]); by default `"math"`.

    Returns:
        `list[float]`: Shape (n,), 1.0 or 0.0. Source: SeRL, self-rewarding.
    """
    if vote_reward is not None:
        return list(vote_reward)
    rewards: list[float] = []
    formats = answer_format or ["math"] * len(prompts)
    rows = zip(prompts, formats, completions, strict=True)
    for (_, group_format), group in groupby(rows, key=lambda row: row[:2]):
        rewards += majority_vote([_text(row[2]) for row in group], answer_format=group_format).rewards
    return rewards


def accuracy_reward(
    completions: Sequence,
    answer: Sequence[str | None] | None = None,
    answer_format: Sequence[str] | None = None,
    **kwargs,
) -> list[float | None]:
    """Reward each completion for agreeing with the true answer.

    Args:
        completions (`Sequence`): Shape (n,), conversations (one assistant message each) or texts.
        answer (`Sequence[str | None]`, *optional*): Shape (n,), true answers, e.g. `"5"` or `"So it is \\boxed{5}."`.
        answer_format (`Sequence[str]`, *optional*): As in [`majority_vote_reward`].

    Returns:
        `list[float | None]`:
            Shape (n,), 1.0 or 0.0; `None`, which TRL leaves out, where a row has no answer. A completion without a
            readable answer gets 0.0, and so does one whose answer takes too long: consecutive rows with the same true
            answer have 10 s in all.

    Raises:
        ValueError: if a true answer cannot be read, since every completion would silently be wrong.
    """
    if answer is None:
        return [None] * len(completions)
    rewards: list[float | None] = []
    formats = answer_format or ["math"] * len(completions)
    rows = zip(answer, formats, completions, strict=True)
    for (true_answer, group_format), group in groupby(rows, key=lambda row: row[:2]):
        texts = [_text(row[2]) for row in group]
        if true_answer is None:
            rewards += [None] * len(texts)
        else:
            rewards += true_answer_rewards(texts, true_answer, answer_format=group_format).rewards
    return rewards


def is_correct(completion: str, true_answer: str, answer_format: str = "math") -> bool:
    """Return whether the completion's answer equals the true one; see [`accuracy_reward`]."""
    return bool(true_answer_rewards([completion], true_answer, answer_format=answer_format).rewards[0])


def self_play_reward(completions: Sequence, vote_reward: Sequence[float], **kwargs) -> list[float]:
    """Reward each completion as the loop labelled it, by the vote or the true answer: the default of [`SeRLTrainer`]."""
    return list(vote_reward)


def _text(completion) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]

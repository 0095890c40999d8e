"""Reward functions with TRL's signature."""

from collections.abc import Sequence
from itertools import groupby

from .self_rewarding.answers import answers_equal, parse_answer
from .self_rewarding.voting import majority_vote


def majority_vote_reward(
    prompts: Sequence, completions: Sequence, vote_reward: Sequence[float] | None = None, **kwargs
) -> list[float]:
    """Reward each completion for agreeing with the majority of its group.

    In [`SeRLTrainer`] the vote was taken when the completions were sampled, and is handed over as `vote_reward`. In a
    plain [`~trl.GRPOTrainer`], consecutive equal prompts form a group; there `per_device_train_batch_size *
    steps_per_generation` must be a multiple of `num_generations`, so that no group is split over processes.

    Args:
        prompts (`Sequence`): Shape (n,), conversations or texts.
        completions (`Sequence`): Shape (n,), conversations (one assistant message each) or texts.
        vote_reward (`Sequence[float]`, *optional*): Shape (n,), rewards already known.

    Returns:
        `list[float]`: Shape (n,), 1.0 or 0.0. Source: SeRL, self-rewarding.
    """
    if vote_reward is not None:
        return list(vote_reward)
    rewards: list[float] = []
    for _, group in groupby(zip(prompts, completions, strict=True), key=lambda pair: pair[0]):
        rewards += majority_vote([_text(completion) for _, completion in group]).rewards
    return rewards


def accuracy_reward(completions: Sequence, answer: Sequence[str | None] | None = None, **kwargs) -> list[float | None]:
    """Reward each completion for agreeing with the true answer.

    Args:
        completions (`Sequence`): Shape (n,), conversations (one assistant message each) or texts.
        answer (`Sequence[str | None]`, *optional*): Shape (n,), true answers, e.g. `"5"` or `"So it is \\boxed{5}."`.

    Returns:
        `list[float | None]`:
            Shape (n,), 1.0 or 0.0; `None`, which TRL leaves out, where a row has no answer. A completion without a
            readable answer gets 0.0.

    Raises:
        ValueError: if a true answer cannot be read, since every completion would silently be wrong.
    """
    if answer is None:
        return [None] * len(completions)
    return [
        None if true_answer is None else float(is_correct(_text(completion), true_answer))
        for completion, true_answer in zip(completions, answer, strict=True)
    ]


def is_correct(completion: str, true_answer: str) -> bool:
    """Return whether the completion's answer equals the true one; see [`accuracy_reward`]."""
    # Bare LaTeX such as `2\\sqrt{3}` must be boxed to be read whole; GSM8K writes the answer after `####`.
    boxed = true_answer if "\\boxed" in true_answer else f"\\boxed{{{true_answer.rpartition('####')[2].strip()}}}"
    gold = parse_answer(boxed) or parse_answer(true_answer)
    if gold is None:
        raise ValueError(f"No answer can be read in {true_answer!r}. Write it as a number or as \\boxed{{...}}.")
    given = parse_answer(completion)
    return given is not None and answers_equal(gold, given)


def self_play_reward(
    prompts: Sequence,
    completions: Sequence,
    vote_reward: Sequence[float] | None = None,
    answer: Sequence[str] | None = None,
    **kwargs,
) -> list[float | None]:
    """Reward by the vote in training and by the true answer in evaluation: the default of [`SeRLTrainer`]."""
    if vote_reward is not None:
        return majority_vote_reward(prompts, completions, vote_reward)
    return accuracy_reward(completions, answer)


def _text(completion) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]

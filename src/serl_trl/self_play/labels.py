"""Who labels a group of completions: the majority of its answers, or the true answer of its instruction."""

from collections.abc import Mapping, Sequence

from ..answers.judging import MAX_VOTE_SECONDS
from ..answers.voting import Vote, majority_vote, true_answer_rewards
from .carriers import Completion


class MajorityLabels:
    """Rewards agreement with the majority of the group (SeRL, self-rewarding).

    Args:
        answer_format, max_seconds: As in [`majority_vote`].
    """

    def __init__(self, answer_format: str = "math", max_seconds: float = MAX_VOTE_SECONDS):
        self.settings = {"answer_format": answer_format, "max_seconds": max_seconds}

    def label(self, instruction: str, completions: Sequence[str], truncated: Sequence[bool]) -> Vote:
        """Return the label of a group of completions, and their rewards."""
        return majority_vote(completions, truncated=truncated, **self.settings)


class TrueAnswerLabels:
    """Rewards agreement with the true answer: reinforcement learning with verifiable rewards, for comparison.

    Args:
        true_answers (`Mapping[str, str]`): The true answer of each instruction.
        answer_format, max_seconds: As in [`majority_vote`].
    """

    def __init__(
        self, true_answers: Mapping[str, str], answer_format: str = "math", max_seconds: float = MAX_VOTE_SECONDS
    ):
        self.true_answers = true_answers
        self.settings = {"answer_format": answer_format, "max_seconds": max_seconds}

    def label(self, instruction: str, completions: Sequence[str], truncated: Sequence[bool]) -> Vote:
        true_answer = self.true_answers[instruction]
        return true_answer_rewards(completions, true_answer, truncated=truncated, **self.settings)


def label_group(
    labels: MajorityLabels | TrueAnswerLabels, instruction: str, completions: Sequence[Completion]
) -> Vote:
    """Return what `labels` says of the completions of an instruction."""
    texts, truncated = [completion.text for completion in completions], [c.truncated for c in completions]
    return labels.label(instruction, texts, truncated)

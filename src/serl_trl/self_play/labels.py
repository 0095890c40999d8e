"""Who labels a group of completions: the majority of its answers, its instruction's true answer, or either."""

from collections.abc import Mapping, Sequence

from ..answers.judging import MAX_VOTE_SECONDS
from ..answers.reading import after_thinking
from ..answers.voting import Vote, majority_vote, true_answer_rewards
from .carriers import Completion


class MajorityLabels:
    """Rewards agreement with the majority of the group (SeRL, self-rewarding).

    Args:
        answer_format, max_seconds: As in [`majority_vote`].
    """

    true_answers: Mapping[str, str] = {}

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


class TrueAnswerOrMajorityLabels:
    """Rewards agreement with the true answer of an instruction that has one, and with the majority elsewhere.

    Args:
        true_answers (`Mapping[str, str | None]`): The true answers, `None` where there is none.
        answer_format, max_seconds: As in [`majority_vote`].
    """

    def __init__(
        self,
        true_answers: Mapping[str, str | None],
        answer_format: str = "math",
        max_seconds: float = MAX_VOTE_SECONDS,
    ):
        self.true_answers = {text: answer for text, answer in true_answers.items() if answer is not None}
        self.by_truth = TrueAnswerLabels(self.true_answers, answer_format, max_seconds)
        self.by_majority = MajorityLabels(answer_format, max_seconds)

    def label(self, instruction: str, completions: Sequence[str], truncated: Sequence[bool]) -> Vote:
        """Return the label of a group of completions, and their rewards."""
        labels = self.by_truth if instruction in self.true_answers else self.by_majority
        return labels.label(instruction, completions, truncated)


Labels = MajorityLabels | TrueAnswerLabels | TrueAnswerOrMajorityLabels


def label_group(labels: Labels, instruction: str, completions: Sequence[Completion], thinking_end: str) -> Vote:
    """Return what `labels` says of the completions of an instruction, read as in [`after_thinking`]."""
    texts, truncated = [completion.text for completion in completions], [c.truncated for c in completions]
    return labels.label(instruction, *after_thinking(texts, truncated, thinking_end))

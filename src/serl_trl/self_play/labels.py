"""Who labels a group of completions: the majority of its answers, or the true answer of its instruction."""

from collections.abc import Mapping, Sequence

from ..answers.voting import Vote, majority_vote, true_answer_rewards


class MajorityLabels:
    """Rewards agreement with the majority of the group (SeRL, self-rewarding).

    Args:
        answer_format (`str`): See [`parse_answer`].
    """

    def __init__(self, answer_format: str = "math"):
        self.answer_format = answer_format

    def label(self, instruction: str, completions: Sequence[str], truncated: Sequence[bool]) -> Vote:
        """Return the label of a group of completions, and their rewards."""
        return majority_vote(completions, truncated=truncated, answer_format=self.answer_format)


class TrueAnswerLabels:
    """Rewards agreement with the true answer: reinforcement learning with verifiable rewards, for comparison.

    Args:
        true_answers (`Mapping[str, str]`): The true answer of each instruction.
        answer_format (`str`): See [`parse_answer`].
    """

    def __init__(self, true_answers: Mapping[str, str], answer_format: str = "math"):
        self.true_answers, self.answer_format = true_answers, answer_format

    def label(self, instruction: str, completions: Sequence[str], truncated: Sequence[bool]) -> Vote:
        true_answer = self.true_answers[instruction]
        return true_answer_rewards(completions, true_answer, truncated=truncated, answer_format=self.answer_format)

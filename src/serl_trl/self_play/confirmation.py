"""A majority counts only where slow weights confirm it, by a clear lead in answers of their own."""

from collections.abc import Sequence

from ..answers.judging import judge_group
from ..answers.reading import after_thinking
from .carriers import Completion, Group
from .evidence import lead
from .funnel import Funnel
from .prompt import PromptTemplate
from .sampler import Sampler, judge_once
from .settings import SelfPlaySettings


# After so many answers of the slow weights: the lead below which a label is given up, and that from which on it is
# confirmed. A majority that takes long to become clear is more often wrong, so the bar rises; what is given up would
# seldom be confirmed by all 24 (docs/method.md).
LOOKS = {8: (1.2, 2.8), 16: (2.2, 3.0), 24: (3.4, 3.4)}


def verdict(answers: int, agreeing: int, others: int) -> bool | None:
    """Return whether slow weights confirm a label, `None` while more answers could decide it.

    Args:
        answers (`int`): How many they gave, one of [`LOOKS`].
        agreeing (`int`): Those that equal the label.
        others (`int`): Those of the largest other class.
    """
    give_up, confirm = LOOKS[answers]
    if lead(agreeing, others) >= confirm:
        return True
    return False if lead(agreeing, others) < give_up else None


class Confirmation:
    """Asks the slow weights about groups that have passed everything else.

    Args:
        settings ([`SelfPlaySettings`]): The run's settings.
        sampler ([`Sampler`]): Where the answers of the slow weights come from.
        template ([`PromptTemplate`]): The run's.
    """

    def __init__(self, settings: SelfPlaySettings, sampler: Sampler, template: PromptTemplate):
        self.settings, self.sampler, self.template = settings, sampler, template

    def ask(self, groups: Sequence[Group], funnel: Funnel) -> tuple[list[bool], list[list[str | None]]]:
        """Return whether the slow weights confirm each group's label, and what they answered.

        They answer until [`verdict`] is clear at one of [`LOOKS`]; at the last one it always is.
        """
        if not groups:
            return [], []
        open_groups = list(range(len(groups)))
        verdicts, answers = [False] * len(groups), [[] for _ in groups]
        replies: list[list[Completion]] = [[] for _ in groups]

        def judge(index: int) -> tuple[bool | None, list[str | None]]:
            agreeing, others, own = self.count(groups[index], replies[index])
            return verdict(len(own), agreeing, others), own

        with funnel.timed("confirmation"), self.sampler.slow_weights():
            for look, before in zip(LOOKS, [0, *LOOKS], strict=False):
                if not open_groups:
                    break
                prompts = [list(groups[index].prompt_ids) for index in open_groups]
                sampled = self.sampler.sample(prompts, look - before)
                for index, completions in zip(open_groups, sampled, strict=True):
                    replies[index] += completions
                funnel.count_confirming(sampled)
                judged = judge_once(self.sampler, [(index,) for index in open_groups], judge)
                for index, (confirmed, own) in zip(open_groups, judged, strict=True):
                    verdicts[index], answers[index] = confirmed, own
                open_groups = [index for index in open_groups if verdicts[index] is None]
        return verdicts, answers

    def count(self, group: Group, replies: Sequence[Completion]) -> tuple[int, int, list[str | None]]:
        """Return how many replies agree with the group's label, how many the largest other class has, and answers."""
        one = group.completions[group.vote.rewards.index(1.0)]  # that gave the label, for all of them
        texts, truncated = [one.text, *(r.text for r in replies)], [one.truncated, *(r.truncated for r in replies)]
        texts, truncated = after_thinking(texts, truncated, self.template.thinking_end)
        judged = judge_group(texts, truncated, self.settings.answer_format, self.settings.max_vote_seconds)
        agreeing = next((len(members) - 1 for members in judged.classes if 0 in members), 0)
        others = max((len(members) for members in judged.classes if 0 not in members), default=0)
        return agreeing, others, list(judged.answers[1:])

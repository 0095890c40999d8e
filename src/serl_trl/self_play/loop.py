"""The whole loop of SeRL on one page: an iterable of generation batches that the model makes for itself."""

import logging
from collections.abc import Iterator
from dataclasses import replace

from tqdm.auto import tqdm

from ..answers.voting import Vote
from .carriers import Batch, Candidate, Completion, Group
from .confirmation import Confirmation
from .difficulty import is_in_band
from .funnel import TOO_EASY, Funnel
from .labels import Labels, label_group
from .ledger import Ledger
from .prompt import answer_prompt, load_template
from .sampler import Sampler, judge_once
from .settings import SelfPlaySettings
from .sources import SeedPasses, SelfInstruction, draw_seeds


logger = logging.getLogger(__name__)

Answered = tuple[list[int], list[Completion]]  # the tokens of a prompt, and its completions


class DryBatchError(RuntimeError):
    """`max_rounds` rounds did not fill a generation batch.

    Attributes:
        learnt (`bool`): Whether nothing else was wrong than that most groups agreed more often than `max_pass_rate`.
    """

    def __init__(self, message: str, learnt: bool):
        super().__init__(message)
        self.learnt = learnt


class SelfPlayLoader:
    """Iterable of generation batches; every process iterates it in step and gets the same groups.

    Groups beyond what a batch needs are its surplus: the next batch begins with them, and needs no more than a batch.

    Args:
        settings ([`SelfPlaySettings`]): The run's settings.
        source ([`SelfInstruction`] or [`SeedPasses`]): Where instructions come from.
        labels ([`MajorityLabels`], [`TrueAnswerLabels`] or [`TrueAnswerOrMajorityLabels`]): Who labels completions.
        sampler ([`Sampler`]): Where completions come from.
        ledger ([`Ledger`]): Where every candidate is written down.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a bar over the groups of each batch.

    Raises:
        DryBatchError: by `next`, if `max_rounds` rounds don't fill a batch; it shows the funnel and what to change.
    """

    def __init__(
        self,
        settings: SelfPlaySettings,
        source: SelfInstruction | SeedPasses,
        labels: Labels,
        sampler: Sampler,
        ledger: Ledger,
        show_progress: bool = False,
    ):
        self.settings, self.source, self.labels, self.sampler = settings, source, labels, sampler
        self.ledger, self.show_progress = ledger, show_progress
        self.template = load_template(settings.prompt_template)
        self.confirmation = Confirmation(settings, sampler, self.template) if settings.confirm_majority else None
        self.min_pass_rate = settings.min_pass_rate  # evidence may raise it
        self.num_groups = settings.num_groups
        self.num_seed_groups = round(source.seed_share * self.num_groups)
        self.surplus: list[Group] = []
        self.totals = Funnel()
        self.past = Funnel().past
        self.batch_index = 0
        self.last_batch: list[Group] = []  # what was handed over last
        self.last_written: list[Candidate] = []  # of the batch before, on the process that writes the ledger

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        funnel = Funnel(past=self.past)
        groups, written = list(self.surplus), []
        self.source.begin_batch(self.batch_index)
        with self.progress_bar() as progress:
            while missing := sum(self.missing(groups)):
                self.check_rounds(funnel)
                progress.update(self.num_groups - missing - progress.n)
                own, seeds = (funnel.groups_to_answer(count) if count else 0 for count in self.missing(groups))
                kept, fresh = self.play_round(own, funnel, seeds)
                groups, written = groups + kept, written + fresh
                if any(self.missing(groups)):
                    self.ledger.write(self.batch_index, written)
            progress.update(self.num_groups - progress.n)
        return self.hand_over(groups, written, funnel)

    def play_round(self, wanted: int, funnel: Funnel, seeds: int = 0) -> tuple[list[Group], list[Candidate]]:
        """Draw at most `wanted` instructions, and seeds, and answer them; return the groups to train on, and all drawn."""
        admitted, written = self.source.draw(wanted, funnel) if wanted else ([], [])
        drawn = draw_seeds(self.source, seeds, funnel) if seeds else []
        admitted, written = admitted + drawn, written + drawn
        if not admitted:
            return [], written
        answered = self.answer(admitted, funnel)
        votes = self.label(admitted, answered, funnel)
        funnel.count_votes(votes)
        return self.confirm(self.keep_in_band(admitted, answered, votes, funnel), admitted, funnel), written

    def split(self, groups: list[Group]) -> tuple[list[Group], list[Group]]:
        """Return the first groups, as many of seeds and of others as a batch has, and the rest."""
        room = {True: self.num_seed_groups, False: self.num_groups - self.num_seed_groups}
        batch, rest = [], []
        for group in groups:
            (batch if room[group.is_seed] > 0 else rest).append(group)
            room[group.is_seed] -= 1
        return batch, rest

    def missing(self, groups: list[Group]) -> tuple[int, int]:
        """Return how many groups of the model's own instructions, and of seeds, a batch with these needs."""
        batch, _ = self.split(groups)
        seeds = self.num_seed_groups - sum(group.is_seed for group in batch)
        return self.num_groups - len(batch) - seeds, seeds

    def answer(self, admitted: list[Candidate], funnel: Funnel) -> list[Answered]:
        """Let the model answer each instruction; return prompt tokens and completions.

        These are `num_generations`, or `first_generations` of an instruction on which it agrees too often then.
        """
        with funnel.timed("sampling"):
            prompts = [answer_prompt(candidate.instruction, self.template) for candidate in admitted]
            prompt_ids = self.sampler.tokenize(prompts)
            wanted, first = self.settings.num_generations, self.settings.first_generations
            first = first if 0 < first < wanted else wanted
            groups = self.sampler.sample(prompt_ids, first)
        answered = list(zip(prompt_ids, groups, strict=True))
        if first < wanted:
            votes = self.label(admitted, answered, funnel)
            more = [number for number, vote in enumerate(votes) if vote.pass_rate <= self.settings.max_pass_rate]
            with funnel.timed("sampling"):
                rest = self.sampler.sample([prompt_ids[number] for number in more], wanted - first) if more else []
                for number, completions in zip(more, rest, strict=True):
                    groups[number] += completions
        funnel.count_completions(groups)
        return answered

    def label(
        self, admitted: list[Candidate], answered: list[Answered], funnel: Funnel, labels: Labels | None = None
    ) -> list[Vote]:
        """Label each group, in one process only; by the run's labels, or by others."""

        def label(candidate: Candidate, answered: Answered) -> Vote:
            thinking_end = self.template.thinking_end
            return label_group(labels or self.labels, candidate.instruction, answered[1], thinking_end)

        with funnel.timed("vote"):
            return judge_once(self.sampler, zip(admitted, answered, strict=True), label)

    def keep_in_band(
        self, admitted: list[Candidate], answered: list[Answered], votes: list[Vote], funnel: Funnel
    ) -> list[Group]:
        """Return the groups whose difficulty is right, and note what each candidate's completions answered."""
        groups = []
        for candidate, (prompt_ids, completions), vote in zip(admitted, answered, votes, strict=True):
            candidate.answers, candidate.rewards = list(vote.answers), list(vote.rewards)
            candidate.timed_out = list(vote.timed_out)
            if self.settings.keep_completions:
                candidate.completions = [completion.text for completion in completions]
            candidate.pseudo_label, candidate.pass_rate = vote.pseudo_label, vote.pass_rate
            if vote.pseudo_label is None:
                candidate.fate = "no_pseudo_label"
            elif len(completions) < self.settings.num_generations:
                candidate.fate = "out_of_band"  # it was too sure at the first vote, whatever has timed out at this one
            elif not is_in_band(vote, self.min_pass_rate, self.settings.max_pass_rate):
                candidate.fate = "out_of_band"
            elif not all(completion.token_ids for completion in completions):
                candidate.fate = "empty_completion"  # TRL reads each completion's last token
            else:
                prompt = answer_prompt(candidate.instruction, self.template)
                group = Group(candidate.id, candidate.instruction, prompt, tuple(prompt_ids), tuple(completions), vote)
                groups.append(replace(group, is_seed=candidate.is_seed))
        funnel.counts["in_band"] += len(groups)
        return groups

    def confirm(self, groups: list[Group], admitted: list[Candidate], funnel: Funnel) -> list[Group]:
        """Return the groups without those whose majority the slow weights do not confirm, where these are asked."""
        if self.confirmation is not None:
            voted = [group for group in groups if group.instruction not in self.labels.true_answers]
            confirmed, answers = self.confirmation.ask(voted, funnel)
            candidates = {candidate.id: candidate for candidate in admitted}
            for group, is_confirmed, slow_answers in zip(voted, confirmed, answers, strict=True):
                candidate = candidates[group.candidate_id]
                candidate.slow_answers = slow_answers
                if not is_confirmed:
                    candidate.fate = "unconfirmed"
            groups = [group for group in groups if candidates[group.candidate_id].fate != "unconfirmed"]
        funnel.counts["kept"] += len(groups)
        return groups

    def hand_over(self, groups: list[Group], written: list[Candidate], funnel: Funnel) -> Batch:
        """Return the batch; put surplus by, settle fates in the ledger, and keep what is trained for few-shot."""
        batch, rest = self.split(groups)
        surplus, dropped = self.split(rest)
        fates = {group.candidate_id: "trained" for group in batch} | {group.candidate_id: "surplus" for group in rest}
        for candidate in self.last_written + written:
            candidate.fate = fates.get(candidate.id, candidate.fate)
            if fates.get(candidate.id) == "trained":
                candidate.trained_step = self.sampler.step
        if self.surplus:
            self.ledger.write(self.batch_index - 1, self.last_written)
        self.ledger.write(self.batch_index, written)
        funnel.count_batch(batch, dropped=len(dropped))
        with funnel.timed("sampling"):
            kept = self.sampler.with_logprobs(surplus)
        # All that may fail is done: from here on the batch counts.
        self.surplus = [replace(group, surplus=True) for group in kept]
        self.last_batch = batch
        self.source.keep([group.instruction for group in batch if not group.is_seed])
        self.last_written = written
        self.batch_index += 1
        self.past = funnel.faded()
        self.totals.add(funnel)
        return Batch(batch, funnel.metrics() | self.source.metrics())

    def check_rounds(self, funnel: Funnel) -> None:
        """Begin a round, unless too many have passed without filling the batch."""
        settings = self.settings
        if funnel.rounds == settings.max_rounds:
            advice = funnel.advice(self.min_pass_rate, settings.max_pass_rate)
            raise DryBatchError(
                f"{funnel.rounds} rounds of self-instruction (max_rounds) did not fill generation batch "
                f"{self.batch_index + 1} with its {self.num_groups} groups:\n{funnel.describe()}\n{advice}",
                learnt=advice == TOO_EASY,
            )
        funnel.rounds += 1

    def progress_bar(self) -> tqdm:
        """Return a bar over the groups of this batch, on the first process."""
        hidden = not self.show_progress or self.sampler.rank != 0
        name = f"Self-play, generation batch {self.batch_index + 1}"
        return tqdm(total=self.num_groups, desc=name, unit="group", leave=False, disable=hidden)

    @property
    def made_by(self) -> list[str]:
        """The kinds of source and labels that the batches come from."""
        return [type(self.source).__name__, type(self.labels).__name__]

    def state_dict(self) -> dict:
        """Return what the next batches depend on, beside the ledger: the state at the end of the last whole batch.

        It takes microseconds, and no later batch changes it. JSON takes it with `default=dataclasses.asdict`.
        """
        return {
            "batch_index": self.batch_index,
            "made_by": self.made_by,
            "source": self.source.state,
            "surplus": self.surplus,
            "past": self.past,
            "totals": self.totals.to_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on after `state` from JSON: the next batch is the one that would have come, and the ledger ends before it.

        Every process calls it. Where `state["output_dir"]` names another folder, the ledger is copied from there.

        Raises:
            ValueError: if the ledger is not whole, or the state is of another source or label.
        """
        if state["made_by"] != self.made_by:
            raise ValueError(
                f"The checkpoint is of {' and '.join(state['made_by'])}, and the run would go on with "
                f"{' and '.join(self.made_by)}. Set instruction_source and label_source back, or begin a new run."
            )
        origin = Ledger(state["output_dir"]) if "output_dir" in state else self.ledger
        next_batch, next_id = state["batch_index"], state["source"]["next_id"]
        self.source.load_state_dict(state["source"], origin.admitted(next_batch, next_id))
        self.sampler.gather([None])  # all processes have read the ledger: one may change it
        self.batch_index, self.past = next_batch, state["past"]
        groups = [Group.from_dict(group) for group in state["surplus"]]
        self.surplus = [group for group in groups if len(group.completions) == self.settings.num_generations]
        if len(self.surplus) < len(groups):
            logger.warning(
                f"{len(groups)} surplus groups are dropped: they have {len(groups[0].completions)} completions, and "
                f"num_generations is {self.settings.num_generations}."
            )
        self.totals = Funnel.from_dict(state["totals"])
        surplus = {group.candidate_id for group in groups}
        self.last_written = self.ledger.resume(origin, next_batch, next_id, surplus)

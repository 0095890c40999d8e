"""What the start answers to the user's own instructions: the evidence that its majority can be trusted."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .carriers import Candidate
from .evidence import calibrated_pass_rate, wilson_bound
from .funnel import Funnel
from .labels import MajorityLabels, TrueAnswerLabels
from .loop import SelfPlayLoader
from .settings import SelfPlaySettings
from .sources import SelfInstruction


ACCURACY, CONFIDENCE = 0.75, 0.8  # below this share of right labels training loses (docs/method.md)
FEWEST_LABELLED = 20  # fewer show too little to set a bound by
FEWEST_IN_BAND = 8
STRONG = 0.5  # pass rate from which on a majority without a true answer is watched
# By chance alone one seed falls by two standard errors in 39 % of the checks, 16 or 32 do in 3 %.
FEWEST_WATCHED, MOST_WATCHED = 16, 32
ALARM = 2.0  # standard errors from which on a fall of the watched seeds' agreement is a loss
DRIFT = 0.15  # how far below that of the seeds the pass rate of the model's own instructions is too hard
READY = 0.1  # least share of seeds in the band whose majority is confirmed


@dataclass(frozen=True)
class SeedAnswers:
    """What the start answers to one seed.

    Attributes:
        instruction (`str`): The seed.
        pseudo_label (`str | None`): The majority's answer, as in [`Vote`].
        pass_rate (`float`): Share of the answers that gave it.
        right (`bool | None`): Whether it is the true answer; `None` without one.
        confirmed (`bool | None`):
            Whether more answers confirm it, if any are asked; `None` where the group is out of the band.
    """

    instruction: str
    pseudo_label: str | None
    pass_rate: float
    right: bool | None = None
    confirmed: bool | None = None


def answer_seeds(
    loader: SelfPlayLoader, seeds: Sequence[str], true_answers: Mapping[str, str | None]
) -> list[SeedAnswers]:
    """Let the model answer each seed as in training; every process calls it, and gets the same.

    Args:
        loader ([`SelfPlayLoader`]): With the sampler, the labels and the confirmation of the run.
        seeds (`Sequence[str]`): The instructions.
        true_answers (`Mapping[str, str]`): Their true answers, `None` where there is none.
    """
    funnel = Funnel()
    candidates = [Candidate(number, 0, 0, seed, []) for number, seed in enumerate(seeds)]
    answered = loader.answer(candidates, funnel)
    settings = loader.settings  # the majority is what evidence is about, also where true answers are the labels
    majority = MajorityLabels(settings.answer_format, settings.max_vote_seconds)
    votes = loader.label(candidates, answered, funnel, majority)
    groups = loader.keep_in_band(candidates, answered, votes, funnel)
    verdicts = [True] * len(groups)
    if loader.confirmation is not None:
        verdicts, _ = loader.confirmation.ask(groups, funnel)
    confirmed = {group.candidate_id: verdict for group, verdict in zip(groups, verdicts, strict=True)}
    _count(loader, funnel)
    labelled = [number for number, seed in enumerate(seeds) if true_answers.get(seed) is not None]
    truth = TrueAnswerLabels(true_answers, settings.answer_format, settings.max_vote_seconds)
    judged = loader.label([candidates[n] for n in labelled], [answered[n] for n in labelled], funnel, truth)
    by_truth = dict(zip(labelled, judged, strict=True))
    found = []
    for number, (seed, vote) in enumerate(zip(seeds, votes, strict=True)):
        right = None if number not in by_truth else False
        if right is not None and vote.pseudo_label is not None:
            right = by_truth[number].rewards[vote.rewards.index(1.0)] == 1.0
        found.append(SeedAnswers(seed, vote.pseudo_label, vote.pass_rate, right, confirmed.get(number)))
    return found


def agreement(loader: SelfPlayLoader, labels: Mapping[str, str]) -> list[float]:
    """Return which share of a model's answers to each instruction equals its label, shape (instructions,)."""
    candidates = [Candidate(number, 0, 0, instruction, []) for number, instruction in enumerate(labels)]
    funnel = Funnel()
    answered = loader.answer(candidates, funnel)
    _count(loader, funnel)
    by_label = TrueAnswerLabels(labels, loader.settings.answer_format, loader.settings.max_vote_seconds)
    return [vote.pass_rate for vote in loader.label(candidates, answered, funnel, by_label)]


def _count(loader: SelfPlayLoader, funnel: Funnel) -> None:
    tokens = funnel.counts["completion_tokens"] + funnel.counts["confirming_tokens"]
    loader.totals.counts["checking_tokens"] += tokens


@dataclass(frozen=True)
class Evidence:
    """What the start's answers to the seeds say about its majority.

    Attributes:
        seeds (`int`): Seeds that were answered.
        pass_rate (`float`): Their mean pass rate.
        in_band, confirmed (`int`): Seeds in the band, and those of them that would be trained on.
        labelled, right (`int`): Seeds with a true answer, and those of them whose majority gives it.
        trusted, trusted_right (`int`): Labelled seeds that would be trained on, and those of them with a right majority.
        min_pass_rate (`float | None`): The floor of the band that follows; `None` if no pass rate is high enough.
        without_majority (`list[str]`): Seeds whose pass rate is below the band.
        watched (`dict[str, str]`):
            Seeds that are answered again on the way, with the label that counts as right; none where they are few.
    """

    seeds: int
    pass_rate: float
    in_band: int
    confirmed: int
    labelled: int
    right: int
    trusted: int
    trusted_right: int
    min_pass_rate: float | None
    without_majority: list[str]
    watched: dict[str, str]

    @property
    def is_labelled(self) -> bool:
        """Whether the watched seeds are those with true answers."""
        return self.labelled >= FEWEST_LABELLED

    def floor(self, min_pass_rate: float) -> float | None:
        """Return the floor of the band where a run goes on with this setting: true answers may have shown a higher one."""
        if not self.is_labelled:
            return min_pass_rate
        return None if self.min_pass_rate is None else max(self.min_pass_rate, min_pass_rate)

    def figures(self) -> str:
        """Return the figures in a line or two."""
        lines = [
            f"The start's answers to {self.seeds} seeds: pass rate {self.pass_rate:.2f} on average, {self.in_band} in the "
            f"band; {self.confirmed} of these would be trained on."
        ]
        if self.labelled:
            lines.append(
                f"Of {self.labelled} seeds with true answers the majority is right for {self.right}; of the "
                f"{self.trusted} that would be trained on, for {self.trusted_right}."
            )
        return "\n".join(lines)

    def describe(self) -> str:
        """Return the figures and what follows from them, in a few lines."""
        lines = [self.figures()]
        if self.min_pass_rate is not None:
            lines.append(f"A majority counts from a pass rate of {self.min_pass_rate:.2f} on.")
        if self.without_majority:
            lines.append(
                f"Seeds without a majority: {len(self.without_majority)}. Few-shot examples are drawn from the others, if "
                "these are enough."
            )
        return "\n".join(lines)

    def refusal(self, max_pass_rate: float) -> str | None:
        """Return why training would not make the model better, and what to do; `None` if it may."""
        weakness = self.weakness(max_pass_rate)
        advice = "Use a stronger model or easier seeds; method 'paper' trains all the same."
        return weakness and f"{weakness} {advice}"

    def weakness(self, max_pass_rate: float) -> str | None:
        """Return why training would not make the model better, `None` if it may."""
        wrong = self.trusted - self.trusted_right
        if self.is_labelled and self.trusted and wilson_bound(wrong, self.trusted, CONFIDENCE) > 1 - ACCURACY:
            return (
                f"Of {self.trusted} labelled seeds that would be trained on, the majority is right for "
                f"{self.trusted_right} only. Check these answers, and that answer_format reads them."
            )
        if self.is_labelled and (self.min_pass_rate is None or self.min_pass_rate > max_pass_rate):
            return (
                f"The majority is right for {self.right} of {self.labelled} labelled seeds, and in no part of the band for "
                f"{100 * ACCURACY:.0f} %."
            )
        if self.in_band >= FEWEST_IN_BAND and self.confirmed < READY * self.in_band:
            return (
                f"More answers confirm the start's majority for {self.confirmed} of {self.in_band} seeds in the band "
                f"only: it is too unsure to learn from itself."
            )
        return None


def gather_evidence(loader: SelfPlayLoader, true_answers: Mapping[str, str | None]) -> Evidence:
    """Let the start answer at most `evidence_seeds` seeds, labelled ones first, and return what that says.

    Args:
        loader ([`SelfPlayLoader`]): Of a new run.
        true_answers (`Mapping[str, str]`): The seeds, with their true answers or `None`.
    """
    seeds = evidence_order(loader.settings, true_answers)[: loader.settings.evidence_seeds]
    return weigh(answer_seeds(loader, seeds, true_answers), loader.settings, true_answers)


def evidence_order(settings: SelfPlaySettings, true_answers: Mapping[str, str | None]) -> list[str]:
    """Return the seeds in the order in which they are asked: drawn at random by `seed`, labelled ones first."""
    order = random.Random(f"{settings.seed}/evidence").sample(list(true_answers), len(true_answers))
    return sorted(order, key=lambda seed: true_answers[seed] is None)


def use_evidence(loader: SelfPlayLoader, evidence: Evidence) -> None:
    """Let a loop take the floor of its band from evidence, and few-shot examples from seeds with a majority."""
    loader.min_pass_rate = evidence.floor(loader.settings.min_pass_rate)
    if isinstance(loader.source, SelfInstruction):
        loader.source.leave_out(evidence.without_majority)
    loader.ledger.metadata = asdict(evidence)


def weigh(
    answers: Sequence[SeedAnswers], settings: SelfPlaySettings, true_answers: Mapping[str, str | None]
) -> Evidence:
    """Return what the answers to at least one seed say."""
    labelled = [seed for seed in answers if seed.right is not None]
    counted = [seed for seed in labelled if seed.confirmed or seed.pass_rate > settings.max_pass_rate]
    trusted = [seed for seed in labelled if seed.confirmed]
    floor = settings.min_pass_rate
    if len(labelled) >= FEWEST_LABELLED:
        rates, right = [seed.pass_rate for seed in counted], [seed.right for seed in counted]
        calibrated = calibrated_pass_rate(rates, right, ACCURACY, CONFIDENCE) if counted else None
        if trusted or calibrated is None:  # else all of them are above the band, and say nothing of it
            floor = calibrated
        watched = {seed.instruction: true_answers[seed.instruction] for seed in labelled}
    else:
        strong = [seed for seed in answers if seed.pass_rate >= STRONG and seed.right is not False]
        watched = {seed.instruction: seed.pseudo_label for seed in strong}
    return Evidence(
        seeds=len(answers),
        pass_rate=sum(seed.pass_rate for seed in answers) / len(answers),
        in_band=sum(seed.confirmed is not None for seed in answers),
        confirmed=sum(bool(seed.confirmed) for seed in answers),
        labelled=len(labelled),
        right=sum(seed.right for seed in labelled),
        trusted=len(trusted),
        trusted_right=sum(seed.right for seed in trusted),
        min_pass_rate=floor,
        without_majority=[seed.instruction for seed in answers if seed.pass_rate < settings.min_pass_rate],
        watched=dict(list(watched.items())[:MOST_WATCHED]) if len(watched) >= FEWEST_WATCHED else {},
    )

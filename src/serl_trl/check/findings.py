"""What a check finds, as plain data, and what follows from it."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from ..self_play.carriers import Candidate
from ..self_play.funnel import SAMPLED, Funnel
from ..self_play.seed_evidence import DRIFT, Evidence, SeedAnswers
from ..self_play.settings import METHODS
from ..serl_config import SeRLConfig


BUCKETS = 10  # of pass rates
# Share of cut-off completions, or of candidates that one filter takes, from which on another setting is named.
MANY = 0.2
FEWEST = 4  # instructions that are worth a round


@dataclass(frozen=True)
class Cost:
    """What a run takes, by what was measured.

    Attributes:
        steps (`int`): Its optimizer steps.
        tokens (`float`): Tokens sampled for a step.
        sampling (`float`): Seconds in which instructions for a step are written, answered, voted on and confirmed.
        training (`float`): Seconds of a step's forward and backward passes; 0 if they could not be measured.
    """

    steps: int
    tokens: float
    sampling: float
    training: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.steps * (self.sampling + self.training)


def estimate(
    funnel: Funnel, groups_per_step: Fraction, max_steps: int, instructions: int | None, training: float
) -> Cost | None:
    """Return what a run takes if all its steps are as the check's rounds; `None` if no candidate reached a batch.

    Args:
        funnel ([`Funnel`]): Counts and seconds of the rounds.
        groups_per_step (`Fraction`): Groups that are sampled for an optimizer step.
        max_steps (`int`): Most optimizer steps.
        instructions (`int`, *optional*): Admitted instructions after which the run ends.
        training (`float`): Seconds of a step's forward and backward passes.
    """
    counts = funnel.counts
    if not counts["kept"]:
        return None
    share = float(groups_per_step / counts["kept"])  # a step, as a multiple of what the check sampled
    steps = max_steps if instructions is None else math.ceil(instructions / (share * counts["admitted"]))
    return Cost(
        steps=min(max_steps, steps),
        tokens=share * sum(counts[f"{what}_tokens"] for what in SAMPLED),
        sampling=share * funnel.seconds.total(),
        training=training,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment: `measured`, the `optimizer`'s state that training adds, and what is `there`."""

    measured: float
    optimizer: float
    there: float

    @property
    def fits(self) -> bool:
        return self.measured + self.optimizer < self.there


@dataclass(frozen=True)
class Findings:
    """What a check measured.

    Attributes:
        settings ([`SeRLConfig`]): Those of the run.
        num_seeds (`int`): All seeds.
        seeds (`list[SeedAnswers]`): Those that were asked.
        evidence ([`Evidence`]): What their answers say.
        candidates (`list[Candidate]`): What the model wrote; with the fate `"admitted"` those that reach a batch.
        funnel ([`Funnel`]): Counts and seconds of the candidates.
        cost ([`Cost`], *optional*): What the run takes.
        memory ([`Memory`]): What it takes of the machine, of the fullest process.
        room (`int`): Most tokens that a completion can have.
        seconds (`float`): What the check took.
    """

    settings: SeRLConfig
    num_seeds: int
    seeds: list[SeedAnswers]
    evidence: Evidence
    candidates: list[Candidate]
    funnel: Funnel
    cost: Cost | None
    memory: Memory
    room: int
    seconds: float

    @property
    def drift(self) -> float:
        """How far the mean pass rate of the instructions is below that of the seeds, within [-1, 1]."""
        return self.evidence.pass_rate - self.funnel.mean_pass_rate


@dataclass(frozen=True)
class Verdict:
    """Whether to train.

    Attributes:
        go (`bool`): Whether to train, with the settings below where there are any.
        settings (`dict`): Settings to change, with their values.
        reasons (`list[str]`): Why each is to be changed, or why not to train.
    """

    go: bool
    settings: dict[str, float | int | bool]
    reasons: list[str]

    def __str__(self) -> str:
        if not self.go:
            return f"don't: {self.reasons[0]}"
        if not self.settings:
            return "go"
        changes = [f"--{name} {str(value).lower()}" for name, value in self.settings.items()]
        return f"go with these settings: {' '.join(changes)} ({'; '.join(self.reasons)})"


def affordable(most: int, done: int, seconds: float, left: float) -> int:
    """Return how many of `most` more to ask in the time `left`, where `done` took `seconds`; 0 if it is too short."""
    count = min(most, int(done * left / max(seconds, 1e-9)))
    return count if count >= min(FEWEST, most) else 0


def fates(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """Return the candidates that were judged by their fate, or why they were rejected; the largest part first."""
    parts: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.fate != "unused":
            parts.setdefault(candidate.reason or candidate.fate, []).append(candidate)
    return dict(sorted(parts.items(), key=lambda part: -len(part[1])))


def bucket(pass_rate: float) -> int:
    """Return which of the [`BUCKETS`] equal parts of [0, 1] a pass rate is in; the last holds 1."""
    return min(int(pass_rate * BUCKETS + 1e-9), BUCKETS - 1)


def histogram(pass_rates: Iterable[float]) -> list[int]:
    """Return how many pass rates are in each bucket."""
    counts = Counter(map(bucket, pass_rates))
    return [counts[number] for number in range(BUCKETS)]


def own_pass_rates(candidates: Iterable[Candidate]) -> list[float]:
    """Return the pass rates of the candidates that were answered."""
    return [candidate.pass_rate for candidate in candidates if candidate.pass_rate is not None]


def decide(findings: Findings) -> Verdict:
    """Return whether to train, and with which other settings."""
    settings, funnel, memory = findings.settings, findings.funnel, findings.memory
    max_pass_rate = settings.max_pass_rate
    if weakness := findings.evidence.weakness(max_pass_rate):
        return Verdict(False, {}, [f"{weakness} Use a stronger model or easier seeds."])
    if not funnel.counts["kept"]:
        advice = funnel.advice(settings.min_pass_rate, max_pass_rate)
        judged = sum(map(len, fates(findings.candidates).values()))
        return Verdict(False, {}, [f"none of {judged} candidates reaches a batch. {advice}"])
    if not memory.fits and settings.per_device_train_batch_size == 1:
        return Verdict(False, {}, ["it takes more memory than there is. `serl-trl plan` shows what fits."])
    changes = changed_settings(findings)
    return Verdict(True, {n: v for part, _ in changes for n, v in part.items()}, [reason for _, reason in changes])


def changed_settings(findings: Findings) -> list[tuple[dict, str]]:
    """Return which settings to change together, with their values, and why."""
    settings, counts, found = findings.settings, findings.funnel.counts, []
    if not findings.memory.fits:
        batch = settings.per_device_train_batch_size
        smaller = max(size for size in range(1, batch) if batch % size == 0)  # the generation batch stays as it is
        steps = settings.gradient_accumulation_steps * batch // smaller
        changes = {"per_device_train_batch_size": smaller, "gradient_accumulation_steps": steps}
        found.append((changes, "it takes more memory than there is"))
    length = min(2 * settings.max_completion_length, findings.room)
    if counts["truncated"] > MANY * counts["completions"] and length > settings.max_completion_length:
        cut_off = f"{counts['truncated']} of {counts['completions']} completions were cut off"
        found.append(({"max_completion_length": length}, cut_off))
    parts = fates(findings.candidates)
    foreign = len(parts.get("non_ascii", []))
    if foreign > MANY * sum(map(len, parts.values())):
        found.append(({"ascii_only": False}, f"{foreign} candidates are in other scripts"))
    floor = findings.evidence.min_pass_rate
    below = [seed for seed in findings.seeds if settings.min_pass_rate <= seed.pass_rate < floor]
    if below and not settings.evidence_seeds:  # else the run raises it by itself
        found.append(
            ({"min_pass_rate": math.floor(1000 * floor) / 1000}, "below that the majority is too often wrong")
        )
    drift = findings.drift
    if drift > DRIFT and settings.nearness_level == 0 and settings.instruction_source == "self_instruction":
        level = METHODS["trusted"]["nearness_level"]
        found.append(({"nearness_level": level}, f"the pass rate of its instructions is {drift:.2f} below the seeds'"))
    return found

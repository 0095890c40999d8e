"""What a check says: one screen or two of plain text, and the verdict as its last line."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..markdown import table
from ..memory import GIB
from ..self_play.carriers import Candidate
from .findings import BUCKETS, Findings, Verdict, bucket, decide, fates, histogram, own_pass_rates


BAR = 20  # characters of the longest bar
SHOWN = 20  # instructions to read
# What becomes of a candidate, in words; a reason why it is rejected stands as it is.
FATES = {
    "admitted": "reaches a batch",
    "no_pseudo_label": "no two answers agree",
    "out_of_band": "pass rate out of the band",
    "empty_completion": "an answer is empty",
    "unconfirmed": "not confirmed",
}


@dataclass(frozen=True)
class CheckResult:
    """What a check says; `str` of it is the text.

    Attributes:
        go (`bool`): Whether to train, with `settings` changed where there are any.
        settings (`dict`): Names of the settings to change, with their values.
        text (`str`): All of it, for reading. It holds seeds and instructions.
    """

    go: bool
    settings: dict[str, float | int | bool]
    text: str

    def __str__(self) -> str:
        return self.text


def conclude(findings: Findings) -> CheckResult:
    """Return the verdict with the text that leads to it."""
    verdict = decide(findings)
    return CheckResult(verdict.go, verdict.settings, describe(findings, verdict))


def describe(findings: Findings, verdict: Verdict) -> str:
    """Return the whole text."""
    settings, answered = findings.settings, findings.funnel.counts["answered"]
    parts = [
        f"Method {settings.method}: {len(findings.seeds)} of {findings.num_seeds} seeds and {answered} instructions "
        f"were answered, in {findings.seconds:.0f} s. Nothing was trained.",
        _candidates(findings),
        _pass_rates(findings),
        _answers(findings),
        _cost(findings),
        _memory(findings),
        _instructions(findings.candidates),
    ]
    return "\n\n".join([*filter(None, parts), str(verdict)])


def _candidates(findings: Findings) -> str:
    parts = fates(findings.candidates)
    judged = sum(map(len, parts.values()))
    if not judged:
        return "The model wrote no instruction."
    lines = [
        [FATES.get(name, name), f"{100 * len(part) / judged:.0f}", shown(part[0].instruction, 60)]
        for name, part in parts.items()
    ]
    return (
        f"What becomes of 100 candidates, by the {judged} that were judged:\n{table(['of 100', 'for example'], lines)}"
    )


def _pass_rates(findings: Findings) -> str:
    """Return the pass rates of seeds and instructions side by side, with how often the seeds' majority is right."""
    seeds, own = [seed.pass_rate for seed in findings.seeds], own_pass_rates(findings.candidates)
    columns = [bars(histogram(seeds)), bars(histogram(own))]
    names = [f"{len(seeds)} seeds", f"{len(own)} instructions"]
    labelled = [seed for seed in findings.seeds if seed.right is not None]
    if labelled:
        names.append("majority right")
        asked, right = Counter(), Counter()
        for seed in labelled:
            asked[bucket(seed.pass_rate)] += 1
            right[bucket(seed.pass_rate)] += seed.right
        columns.append([f"{right[n]} of {asked[n]}" if asked[n] else "" for n in range(BUCKETS)])
    ranges = [f"{number / BUCKETS:.1f} to {(number + 1) / BUCKETS:.1f}" for number in range(BUCKETS)]
    settings, evidence = findings.settings, findings.evidence
    unknown = "\nNo seed has an answer that it was compared with: whether the majority is right is not known."
    unknown = "" if labelled else unknown
    return (
        f"Groups by pass rate; the band is {settings.min_pass_rate:g} to {settings.max_pass_rate:g}:\n"
        f"{table(names, [list(line) for line in zip(ranges, *columns, strict=True)])}\n"
        f"{evidence.describe() if settings.evidence_seeds else evidence.figures()}\n{_difficulty(findings, own)}"
        f"{unknown}"
    )


def _difficulty(findings: Findings, own: Sequence[float]) -> str:
    if not own:
        return "No instruction was answered."
    side = "below" if findings.drift > 0 else "above"
    low = sum(rate < findings.settings.min_pass_rate for rate in own)
    high = sum(rate > findings.settings.max_pass_rate for rate in own)
    return (
        f"The instructions: pass rate {findings.funnel.mean_pass_rate:.2f} on average, {abs(findings.drift):.2f} "
        f"{side} that of the seeds; {100 * low / len(own):.0f} % are too hard for the band and "
        f"{100 * high / len(own):.0f} % too easy."
    )


def bars(counts: Sequence[int]) -> list[str]:
    """Return a bar for each count, and the count; the longest has [`BAR`] characters, none for 0."""
    most = max(counts) or 1
    return [f"{'#' * -(-count * BAR // most)} {count}" if count else "" for count in counts]


def _answers(findings: Findings) -> str:
    counts = findings.funnel.counts
    completions = counts["completions"]
    if not completions:
        return ""
    unread = counts["unparsed"] - counts["truncated"]  # one that was cut off is not read
    return (
        f"Of {completions} answers to the instructions {counts['truncated']} were cut off at "
        f"{findings.settings.max_completion_length} tokens, and in {max(unread, 0)} others no answer could be read."
    )


def _cost(findings: Findings) -> str:
    cost = findings.cost
    if cost is None:
        return ""
    training = f"{cost.training:.1f} s of forward and backward passes"
    return (
        f"A step takes {cost.tokens:,.0f} sampled tokens in {cost.sampling:.1f} s, and "
        f"{training if cost.training else 'training, not measured'}: {hours(cost.seconds)} for {cost.steps} steps.\n"
        "That is the time of the instructions above, and of one micro-batch for all of a step.\nOptimizer, evidence, "
        "sentinel, evaluation and saving are not included."
    )


def hours(seconds: float) -> str:
    """Return a time in hours, or in minutes below one."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"


def _memory(findings: Findings) -> str:
    memory = findings.memory
    where = "the machine" if findings.settings.device.type == "cpu" else "the GPU"
    return (
        f"Memory: {memory.measured / GIB:.1f} GiB at the fullest moment of the check, and {memory.optimizer / GIB:.1f} "
        f"for AdamW's state; {where} has {memory.there / GIB:.1f}."
    )


def _instructions(candidates: Sequence[Candidate]) -> str:
    """Return some instructions with their votes, those that reach a batch first."""
    answered = [candidate for candidate in candidates if candidate.pass_rate is not None]
    answered.sort(key=lambda candidate: candidate.fate != "admitted")
    if not answered:
        return ""
    lines = [
        f"  {candidate.pass_rate:.2f}  {shown(candidate.instruction, 70)}  {votes(candidate)}"
        f"{'' if candidate.fate == 'admitted' else f'  ({FATES[candidate.fate]})'}"
        for candidate in answered[:SHOWN]
    ]
    return "\n".join(["Instructions, with pass rates and votes:", *lines])


def votes(candidate: Candidate) -> str:
    """Return the answers of a candidate and how many gave each: the majority, two others, the rest, and none."""
    others = Counter(
        answer
        for answer, reward in zip(candidate.answers, candidate.rewards, strict=True)
        if answer is not None and not reward
    )
    rest = others.total()
    parts = []
    if candidate.pseudo_label is not None:
        parts.append((candidate.pseudo_label, int(sum(candidate.rewards))))
    parts += others.most_common(2)
    rest -= sum(count for _, count in others.most_common(2))
    parts += [("others", rest)] * (rest > 0)
    none = sum(answer is None for answer in candidate.answers)
    parts += [("no answer", none)] * (none > 0)
    return ", ".join(f"{shown(text, 20)} x{count}" for text, count in parts)


def shown(text: str, width: int) -> str:
    """Return a text on one line of at most `width` characters; what a terminal could take for a command is a `?`."""
    text = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return text if len(text) <= width else f"{text[: width - 3]}..."

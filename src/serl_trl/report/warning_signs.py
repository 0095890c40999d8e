"""What should worry the owner of a run, in words: each sign with its figure and what to do."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ..self_play.funnel import REASONS, TOO_EASY
from ..self_play.seed_evidence import ACCURACY, ALARM, DRIFT
from .counts import thirds
from .curves import logged, mean_of
from .drift import near_curve
from .gain import gains
from .reading import Run


FEW_IN_BAND = 0.2  # below this share most sampling is for nothing
MOST_LOST = 0.25  # share of completions without a vote
FEWEST = 20  # instructions that a share is taken of


class WarningSign(NamedTuple):
    """What was seen, with its figure, and what to do."""

    text: str
    advice: str


def warning_signs(run: Run, shown: list[dict]) -> list[WarningSign]:
    """Return the warning signs of a run, the gravest first; `shown` are trained rows with `near`."""
    return [*_losses(run), *_new_ground(shown), *_one_answer(run), *_difficulty(run), *_waste(run), *_lengths(run)]


def _losses(run: Run) -> Iterator[WarningSign]:
    """The model answers worse than at the start, or its majority was not to be trusted."""
    for gain in gains(run):
        if gain["high"] < 0.0:
            interval = f"95 % interval [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            text = f"{gain['what']} fell by {-gain['difference']:.1f} points, {interval}."
            yield WarningSign(
                text, "Don't use this model. Train again with method 'trusted' or from a stronger start."
            )
    for step, errors in logged(run, "sentinel/errors"):
        if errors <= -ALARM:
            text = f"At step {step} the sentinel saw the answers to the watched seeds lose, by {-errors:.1f} standard errors."
            yield WarningSign(text, "Lower learning_rate, or give more seeds with answers.")
    if run.evidence and run.evidence.is_labelled and run.evidence.right < ACCURACY * run.evidence.labelled:
        text = f"The start's majority was right for {run.evidence.right} of {run.evidence.labelled} labelled seeds."
        yield WarningSign(
            text, "Use a stronger model or easier seeds: below three quarters training loses more than it gains."
        )


def _new_ground(shown: list[dict]) -> Iterator[WarningSign]:
    """What is trained on is unlike the seeds, and stays so."""
    points = near_curve(shown) if len(shown) >= FEWEST else []
    last_near = max((place for place, (_, near) in enumerate(points) if near > 0.5), default=-1)
    if new := points[last_near + 1 :]:
        share = 100 * (1 - sum(near for _, near in new) / len(new))
        text = f"From step {new[0][0]:.0f} on, half of the batch or more is new ground: {share:.0f} % is unlike the seeds."
        yield WarningSign(text, "Set nearness_level to 1, or check a dozen of these pseudo-labels by hand.")


def _one_answer(run: Run) -> Iterator[WarningSign]:
    """One pseudo-label takes over."""
    last = [row for row in thirds(run.rows)[2] if row["fate"] == "trained"]
    labels = Counter(row["pseudo_label"] for row in last).most_common(1)
    if labels and len(last) >= FEWEST and labels[0][1] > len(last) / 2:
        label, count = labels[0]
        text = f"{count} of the last third's {len(last)} trained instructions have one pseudo-label, {label[:40]!r}."
        yield WarningSign(text, "Read them in the table: a model that answers all alike is rewarded for it.")


def _difficulty(run: Run) -> Iterator[WarningSign]:
    """The instructions become too hard or too easy."""
    first, _, last = ([row["pass_rate"] for row in part if row["pass_rate"] is not None] for part in thirds(run.rows))
    if min(len(first), len(last)) < FEWEST:
        return
    before, after = sum(first) / len(first), sum(last) / len(last)
    if before - after > DRIFT:
        text = f"The mean pass rate fell from {before:.2f} in the first third to {after:.2f} in the last."
        yield WarningSign(text, "The instructions become harder: set nearness_level to 1 or max_kept_examples to 0.")
    in_band = mean_of(logged(run, "self_rewarding/in_band_ratio"), 2)
    if in_band is not None and in_band < FEW_IN_BAND:
        easy = "Lower min_pass_rate, or use easier seeds: the model seldom agrees with itself."
        text = f"In the last third {100 * in_band:.0f} % of the groups are in the band; the mean pass rate is {after:.2f}."
        yield WarningSign(text, TOO_EASY if after > 0.5 else easy)


def _waste(run: Run) -> Iterator[WarningSign]:
    """Most of what is sampled is lost."""
    judged = [row["reason"] for row in thirds(run.rows)[2] if row["fate"] != "unused"]
    for reason, count in Counter(filter(None, judged)).most_common(1):
        if len(judged) >= FEWEST and count > len(judged) / 2:
            share = 100 * count / len(judged)
            yield WarningSign(
                f"{share:.0f} % of the last third's candidates are rejected as {reason}.", REASONS[reason]
            )
    truncated, unparsed = (
        mean_of(logged(run, f"self_rewarding/{what}_ratio"), 2) for what in ("truncated", "unparsed")
    )
    if (truncated or 0.0) > MOST_LOST:
        text = f"In the last third {100 * truncated:.0f} % of the completions are truncated."
        yield WarningSign(text, "Raise max_completion_length: truncated completions have no vote.")
    elif (unparsed or 0.0) > MOST_LOST:
        text = f"In the last third {100 * unparsed:.0f} % of the completions have no readable answer."
        yield WarningSign(text, "Change the answer_request of the prompt_template.")


def _lengths(run: Run) -> Iterator[WarningSign]:
    """The completions become much shorter or longer."""
    points = logged(run, "completions/mean_length")
    before, after = mean_of(points, 0), mean_of(points, 2)
    if before and after and not 0.5 <= after / before <= 2.0:
        text = f"The mean completion has {after:.0f} tokens in the last third, {before:.0f} in the first."
        yield WarningSign(
            text, "Read some, with log_completions. If they are worse, lower learning_rate or raise beta."
        )

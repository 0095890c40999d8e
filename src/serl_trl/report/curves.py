"""Curves over the steps of a run: figures that Trainer logged, and figures of the ledger."""

import math
import re

from .reading import Run


Points = list[tuple[float, float]]  # a step and a figure each

LOGGED = {
    "reward": "reward",
    "pass rate": "self_rewarding/pass_rate",
    "share in the band": "self_rewarding/in_band_ratio",
    "KL from the start": "kl",
    "completion length, tokens": "completions/mean_length",
    "truncated completions": "self_rewarding/truncated_ratio",
    "sentinel: agreement": "sentinel/agreement",
}
MOST = 150  # points of a curve on the page: a longer one is averaged


def logged(run: Run, key: str) -> Points:
    """Return the finite values of a log key."""
    values = [(entry["step"], entry[key]) for entry in run.log if entry.get(key) is not None]
    return [(step, value) for step, value in values if math.isfinite(value)]


def curves(run: Run) -> dict[str, Points]:
    """Return all curves of a run by their titles; empty ones for what is not known."""
    found = {title: logged(run, key) for title, key in LOGGED.items()}
    found["right pseudo-labels"] = label_accuracy(run)
    return {title: thinned(points) for title, points in found.items()}


def evaluated(run: Run) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return pass@1 with its 95 % interval (step, value, low, high) over the run, by the prefix of its log keys."""
    found: dict[str, list] = {}
    for entry in run.log:
        for key in entry:
            if name := re.fullmatch(r"(.+)_pass@1_low", key):
                found.setdefault(name[1], []).append(
                    (entry["step"], *(entry[f"{name[1]}_pass@1{end}"] for end in ("", "_low", "_high")))
                )
    return found


def label_accuracy(run: Run) -> Points:
    """Return the share of right pseudo-labels by step, of trained seeds whose true answer the evidence holds.

    Texts are compared, so that 1/2 and 0.5 differ.
    """
    if run.evidence is None or not run.evidence.is_labelled:
        return []
    right: dict[int, list[bool]] = {}
    for row in run.trained:
        if row["instruction"] in run.evidence.watched:
            known = run.evidence.watched[row["instruction"]]
            right.setdefault(row["trained_step"] + 1, []).append(row["pseudo_label"] == known)
    return [(step, sum(found) / len(found)) for step, found in sorted(right.items())]


def thinned(points: Points) -> Points:
    """Return at most `MOST` points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / MOST)
    parts = [points[first : first + size] for first in range(0, len(points), size or 1)]
    return [tuple(sum(values) / len(part) for values in zip(*part, strict=True)) for part in parts]


def mean_of(points: Points, third: int) -> float | None:
    """Return the mean over the first (0), second or last (2) third of the points; `None` of fewer than three."""
    part = points[third * len(points) // 3 : (third + 1) * len(points) // 3]
    return sum(value for _, value in part) / len(part) if len(points) >= 3 else None

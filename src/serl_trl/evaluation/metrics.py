"""Metrics of sampled answers, with intervals: functions of plain rows.

A row is one instruction with its n completions:

    {
        "instruction": "What is 2 + 3?",
        "level": None,                        # or a text
        "answers": ["5", "6", "5.0", None],   # shape (n,), None where a completion abstains
        "correct": [1, 0, 1, 0],              # shape (n,), whether each answer equals the true one
        "classes": [0, 1, 0, None],           # shape (n,), the class of equal answers, None where it abstains
        "truncated": [False, False, False, True],  # shape (n,)
        "timed_out": [False] * 4,             # shape (n,), whether it abstains since its answer took too long to read
    }

Every completion counts: without a readable answer it is wrong, never absent.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import mode

import numpy as np

from ..self_play.confirmation import LOOKS, verdict
from ..self_play.settings import METHODS


VOTING = 16  # completions of a group
RESAMPLES = 2000  # of the bootstrap
CONFIDENCE = 0.95


def metric_names(num_samples: int) -> list[str]:
    """Return the metrics of rows of n completions: pass@k and maj@k for n and the powers of two below, and two rates."""
    counts = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples] + [num_samples]
    return [f"{kind}@{k}" for kind in ("pass", "maj") for k in counts] + ["unparsed", "truncated"]


def row_value(row: dict, metric: str) -> float:
    """Return the metric of one row, in [0, 1]; the metric of many rows is the mean of theirs.

    - `"pass@k"`: the probability that at least one of k completions is right, by the unbiased estimator
      1 - C(n - c, k) / C(n, k) with c right ones (Chen et al., arXiv 2107.03374). `pass@1` is the share of right ones.
    - `"maj@k"`: the probability that the majority of k is right, as the mean over the disjoint runs of k completions.
    - `"unparsed"`, `"truncated"`: the share of completions that abstain, and of those among them that were cut off.
    """
    n = len(row["correct"])
    if metric == "unparsed":
        return row["classes"].count(None) / n
    if metric == "truncated":
        return sum(row["truncated"]) / n
    kind, _, number = metric.partition("@")
    k = int(number)
    if kind == "pass":
        draws = math.comb(n, k)
        return (draws - math.comb(n - sum(row["correct"]), k)) / draws
    runs = range(0, n - k + 1, k)
    return sum(majority_is_right(row["classes"][i : i + k], row["correct"][i : i + k]) for i in runs) / len(runs)


def majority_is_right(classes: Sequence[int | None], correct: Sequence[int]) -> bool:
    """Return whether the first answer of the largest class is right; of equally large ones the first counts.

    Unlike the vote of training, which needs two completions that agree, a single answer is a majority too: maj@1 is
    pass@1. Completions that abstain have no vote; if all do, the majority is wrong.
    """
    votes = [number for number in classes if number is not None]
    return bool(votes and correct[classes.index(mode(votes))])


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over 2,000 resamples of `values`, the same for the same seed.

    The values are those of single instructions, so that the interval says how much another draw of instructions and
    of completions would change the mean. Where all are equal it has no width: 20 right of 20 is not certainty.
    """
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def summarize(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return every metric of the rows, `{"pass@1": {"value": 0.5, "low": 0.4, "high": 0.6}, ...}`, all in [0, 1].

    There is at least one row, and all have as many completions.
    """
    summary = {}
    for metric in metric_names(len(rows[0]["correct"])):
        values = [row_value(row, metric) for row in rows]
        low, high = bootstrap_interval(values)
        summary[metric] = {"value": sum(values) / len(values), "low": low, "high": high}
    return summary


def clear_leads(rows: Sequence[dict]) -> tuple[int, int]:
    """Return how many instructions are in the band of method `trusted`, and for how many of these the majority is clear.

    The first 16 completions vote, the next 32 confirm, as the slow weights do before a run's first step; rows have as many.
    """
    in_band = clear = 0
    band, answers = METHODS["trusted"], max(LOOKS)
    for row in rows:
        voting, confirming = row["classes"][:VOTING], Counter(row["classes"][VOTING : VOTING + answers])
        votes = Counter(number for number in voting if number is not None)
        label, agreeing = votes.most_common(1)[0] if votes else (None, 0)
        if agreeing < 2 or not band["min_pass_rate"] <= agreeing / VOTING <= band["max_pass_rate"]:
            continue
        in_band += 1
        others = max((count for number, count in confirming.items() if number not in (None, label)), default=0)
        clear += bool(verdict(answers, confirming[label], others))
    return in_band, clear


def by_level(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the rows of each level, levels in order; rows without one are left out."""
    levels = sorted({row["level"] for row in rows if row["level"] is not None})
    return {level: [row for row in rows if row["level"] == level] for level in levels}


def paired_difference(rows: Sequence[dict], other_rows: Sequence[dict], metric: str) -> dict[str, float | int]:
    """Return by how much `rows` are better than `other_rows`, on the instructions that both have.

    There is at least one; a repeated one is matched in order. The numbers of completions may differ.

    Returns:
        `dict`:
            `difference` in [-1, 1] with its interval from `low` to `high` (a bootstrap over matched instructions, so
            that what is hard for both cancels out), the number of `instructions` compared, and `left_out`, the
            number of rows on either side without a match.
    """
    own, other = _by_instruction(rows), _by_instruction(other_rows)
    common = [key for key in own if key in other]
    differences = [row_value(own[key], metric) - row_value(other[key], metric) for key in common]
    low, high = bootstrap_interval(differences)
    return {
        "difference": sum(differences) / len(differences),
        "low": low,
        "high": high,
        "instructions": len(common),
        "left_out": len(own) + len(other) - 2 * len(common),
    }


def _by_instruction(rows: Sequence[dict]) -> dict[tuple[str, int], dict]:
    seen: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        keyed[row["instruction"], seen[row["instruction"]]] = row
        seen[row["instruction"]] += 1
    return keyed

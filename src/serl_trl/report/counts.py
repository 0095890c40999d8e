"""Counts of a run's candidates: the funnel, the rejected, pass rates and votes."""

from collections import Counter

from ..self_play.funnel import REASONS
from .reading import Run


SHOWN = 2000  # trained instructions on a page, which stays below 3 MB with them
EXAMPLES = 3  # of each reason
ANSWERS = 4  # of each vote
LONGEST = 400  # characters of an instruction on a page
LONGEST_ANSWER = 40


def thirds(rows: list[dict]) -> list[list[dict]]:
    """Return the rows whose candidates were written in the first, second and last third of the steps so far."""
    parts, steps = ([], [], []), max((row["step"] for row in rows), default=0) + 1
    for row in rows:
        parts[row["step"] * 3 // steps].append(row)
    return list(parts)


def funnel(run: Run) -> dict[str, int]:
    """Return how many candidates reached each stage, in order."""
    fates = Counter(row["fate"] for row in run.rows)
    admitted = fates.total() - fates["unused"] - fates["rejected"]
    in_band = fates["unconfirmed"] + fates["surplus"] + fates["trained"]
    return {
        "candidates": fates.total(),
        "judged": fates.total() - fates["unused"],
        "admitted": admitted,
        "answered, with a pseudo-label": admitted - fates["admitted"] - fates["no_pseudo_label"],
        "in the band": in_band,
        "confirmed by the slow weights, where they are asked": in_band - fates["unconfirmed"],
        "trained": fates["trained"],
    }


def rejected(run: Run) -> dict[str, int]:
    """Return how many candidates were rejected, by reason, the most frequent first."""
    return dict(Counter(row["reason"] for row in run.rows if row["fate"] == "rejected").most_common())


def rejected_examples(run: Run) -> list[dict]:
    """Return rows of each reason, from the start, the middle and the end of the run."""
    found = []
    for reason in REASONS:
        found += spread([row for row in run.rows if row["reason"] == reason], EXAMPLES)
    return found


def shares_by_pass_rate(rows: list[dict], bins: int = 16) -> list[float]:
    """Return the share of the groups voted on whose pass rate rounds to 0, 1 / bins, ..., 1, shape (bins + 1,)."""
    counts = Counter(round(row["pass_rate"] * bins) for row in rows if row["pass_rate"] is not None)
    return [counts[number] / max(counts.total(), 1) for number in range(bins + 1)]


def shown_rows(run: Run, most: int) -> list[dict]:
    """Return trained rows, at most so many and evenly spread, each with `votes` such as `"9 × 42, 3 × 41"`."""
    rows = spread(run.trained, most)
    wanted = {row["id"] for row in rows}
    places = [place for place, row in enumerate(run.rows) if row["id"] in wanted]
    answers = run.ledger["answers"].take(places).to_pylist()
    return [row | {"votes": votes(group)} for row, group in zip(rows, answers, strict=True)]


def votes(answers: list[str | None]) -> str:
    """Return the most frequent answers with their counts; no answer is `none`."""
    counts = Counter(answers)
    shown = [f"{count} × {short(answer or 'none', LONGEST_ANSWER)}" for answer, count in counts.most_common(ANSWERS)]
    return ", ".join(shown + ["…"] * (len(counts) > ANSWERS))


def spread(rows: list[dict], most: int) -> list[dict]:
    """Return at most so many of the rows, evenly spread from the first to the last."""
    if len(rows) <= most:
        return rows
    return [rows[number * (len(rows) - 1) // (most - 1)] for number in range(most)]


def short(text: str | None, longest: int = LONGEST) -> str:
    """Return a text as it is shown: its first characters, if it is long."""
    text = text or ""
    return text if len(text) <= longest else text[:longest] + "…"

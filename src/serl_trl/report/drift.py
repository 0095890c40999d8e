"""How far the instructions have moved from the seeds: words, numbers, and the gate's verdict."""

from collections import Counter
from statistics import mean, median

from ..self_play.nearness import NearnessGate, numbers_in
from .counts import spread, thirds
from .curves import Points
from .reading import Run


WORDS = 12  # with the largest change
TEXTS = 3000  # of a third, or of the seeds, that are read


def gate_of(run: Run) -> NearnessGate | None:
    """Return a gate fitted to the seeds, at the run's level or else at 1; `None` where it tells no kind from others."""
    if not run.seeds:
        return None
    gate = NearnessGate(run.seeds, run.record and run.record.settings.get("nearness_level") or 1.0)
    return gate if gate.binds else None


def judged(rows: list[dict], gate: NearnessGate | None) -> list[dict]:
    """Return rows with `near`, whether the gate admits their instruction; `None` without a gate."""
    return [row | {"near": None if gate is None else gate.admits(row["instruction"])} for row in rows]


def by_thirds(run: Run, shown: list[dict]) -> dict[str, list[str]]:
    """Return figures of the seeds and of what was written in each third, as texts, shape (4,), by what they count."""
    parts = thirds([row for row in run.rows if row["fate"] != "unused"])
    texts = [run.seeds, *([row["instruction"] for row in spread(part, TEXTS)] for part in parts)]
    last = max(row["step"] for row in run.rows) + 1
    near = [[row["near"] for row in shown if row["step"] * 3 // last == third] for third in range(3)]
    return {
        "instructions judged": [str(len(run.seeds)), *(str(len(part)) for part in parts)],
        "words, on average": [_mean(len(text.split()) for text in part) for part in texts],
        "numbers, on average": [_mean(len(numbers_in(text)) for text in part) for part in texts],
        "largest number, in the middle": [
            _median(max(numbers_in(text), default=0.0) for text in part) for part in texts
        ],
        "rejected as too similar, %": [
            "",
            *(_percent(row["reason"] == "too_similar" for row in part) for part in parts),
        ],
        "near the seeds, % of the trained": ["", *(_percent(part) if None not in part else "" for part in near)],
    }


def changed_words(run: Run) -> list[tuple[str, float, float]]:
    """Return the words whose share of the instructions differs most between the seeds and the last third, with both."""
    last = [row["instruction"] for row in thirds(run.rows)[2] if row["fate"] != "unused"]
    before, after = (_word_shares(texts[-TEXTS:]) for texts in (run.seeds, last))
    changes = {word: after[word] - before[word] for word in before | after}
    words = sorted(changes, key=lambda word: -abs(changes[word]))[:WORDS]
    return [(word[:40], before[word], after[word]) for word in sorted(words, key=changes.get)]


def near_curve(shown: list[dict]) -> Points:
    """Return the share of the trained instructions that are near the seeds, by tenths of the run."""
    size = max(len(shown) // 10, 1)
    parts = [shown[first : first + size] for first in range(0, len(shown) - size + 1, size)]
    if any(row["near"] is None for row in shown):
        return []
    return [(part[0]["trained_step"] + 1, mean(row["near"] for row in part)) for part in parts]


def _word_shares(texts: list[str]) -> Counter:
    counts = Counter(word for text in texts for word in {*text.lower().split()})
    return Counter({word: count / len(texts) for word, count in counts.items()})


def _mean(values) -> str:
    values = list(values)
    return f"{mean(values):.1f}" if values else ""


def _median(values) -> str:
    values = list(values)
    return f"{median(values):.6g}" if values else ""


def _percent(values) -> str:
    values = list(values)
    return f"{100 * mean(values):.0f}" if values else ""

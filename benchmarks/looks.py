"""How often slow weights confirm a label, and by how many answers, by the probability with which they give it.

Of the other answers the most frequent one takes 70 %. Beside today's bounds those before: drawn, not trained.

    python benchmarks/looks.py
"""

import numpy as np

from serl_trl.self_play.confirmation import LOOKS


RULES = {
    "today": LOOKS,
    "until 2026-11-26": {8: (0.0, 2.8), 16: (1.5, 3.0), 32: (3.8, 3.8)},
    "the first": {8: (0.0, 2.8), 16: (0.7, 3.0), 32: (3.0, 3.0)},
}
PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
DRAWS = 100_000


def ask(looks: dict[int, tuple[float, float]], probability: float) -> tuple[float, float]:
    """Return which share of labels is confirmed, and the mean number of answers asked for."""
    rng, others = np.random.default_rng(0), 1 - probability
    counts = np.zeros((DRAWS, 3), int)
    is_open, confirmed, answers = np.ones(DRAWS, bool), np.zeros(DRAWS, bool), np.zeros(DRAWS)
    for look, before in zip(looks, [0, *looks], strict=False):
        give_up, confirm = looks[look]
        counts += rng.multinomial(look - before, [probability, 0.7 * others, 0.3 * others], DRAWS)
        answers[is_open] += look - before
        first, second = counts[:, 0], counts[:, 1:].max(axis=1)
        lead = (first - second) / np.sqrt(first + second)
        confirmed |= is_open & (lead >= confirm)
        is_open &= (lead >= give_up) & (lead < confirm)
    return confirmed.mean(), answers.mean()


def main() -> None:
    print(f"| bounds | {' | '.join(f'{probability:.0%}' for probability in PROBABILITIES)} |")
    print(f"| --- |{' --- |' * len(PROBABILITIES)}")
    for name, looks in RULES.items():
        asked = [ask(looks, probability) for probability in PROBABILITIES]
        print(f"| {name} | {' | '.join(f'{share:.0%} by {answers:.0f}' for share, answers in asked)} |")


if __name__ == "__main__":
    main()

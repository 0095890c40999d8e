"""The diversity filter beside `rouge_score`, and beside comparing with every text, on the same texts.

    python benchmarks/diversity.py
    python benchmarks/diversity.py --admitted 1000000      # five minutes

Texts of 10 to 60 words that are as frequent as in a language. Beside `rouge_score` 40 candidates against 500 texts; beside
brute force (rapidfuzz, in C++, which gives the same numbers) 20 against many more. CPU time of this process, one core.
"""

import argparse
import random
import statistics

import numpy as np
from growth import seconds, texts
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.rouge_scorer import RougeScorer

from serl_trl import DiversityFilter


def brute_force(diversity: DiversityFilter, candidate: str) -> float:
    """Return the highest ROUGE-L F1 by comparing with every text."""
    encoded = diversity._encode(candidate)
    common = cdist([encoded], diversity._encoded, scorer=LCSseq.similarity, dtype=np.int32)[0]
    return float((2.0 * common / (len(encoded) + np.array(diversity._lengths))).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admitted", type=int, default=100_000, help="texts to compare with")
    admitted = parser.parse_args().admitted
    rng, rows = random.Random(0), []
    small, candidates = DiversityFilter(texts(rng, 500)), texts(rng, 40)
    scorer, apart = RougeScorer(["rougeL"]), []

    def by_rouge_score(candidate: str) -> None:
        score = max(scorer.score(text, candidate)["rougeL"].fmeasure for text in small.texts)
        apart.append(abs(score - small.nearest(candidate)[1]))

    theirs = statistics.median(seconds(by_rouge_score, candidate) for candidate in candidates)
    ours = statistics.median(seconds(small.nearest, candidate) for candidate in candidates)
    rows.append(("500 texts", "rouge_score", theirs, ours, max(apart)))
    large = DiversityFilter(texts(rng, admitted))
    candidates = texts(rng, 20)
    theirs = statistics.median(seconds(brute_force, large, candidate) for candidate in candidates)
    times = [seconds(large.nearest, candidate) for candidate in candidates]
    apart = [abs(brute_force(large, candidate) - large.nearest(candidate)[1]) for candidate in candidates]
    rows.append((f"{admitted:,} texts", "brute force", theirs, statistics.median(times), max(apart)))
    print(
        "| against | beside | its ms a candidate | ours | ratio | largest difference |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, other, theirs, ours, difference in rows:
        cells = f"{1000 * theirs:.1f} | {1000 * ours:.2f} | {theirs / ours:.0f} x | {difference:.0e}"
        print(f"| {name} | {other} | {cells} |")
    print(f"\nThe slowest of the {len(times)} candidates took {1000 * max(times):.1f} ms.")


if __name__ == "__main__":
    main()

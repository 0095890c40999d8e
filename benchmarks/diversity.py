"""The diversity filter against `rouge_score`, side by side on the same texts: `python benchmarks/diversity.py`."""

import random
import time

from rouge_score.rouge_scorer import RougeScorer

from serl_trl import DiversityFilter


def main() -> None:
    rng = random.Random(0)
    words = [f"word{number}" for number in range(2000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(10, 60))) for _ in range(540)]
    added, candidates = texts[:500], texts[500:]
    scorer = RougeScorer(["rougeL"])
    start = time.perf_counter()
    expected = [max(scorer.score(text, candidate)["rougeL"].fmeasure for text in added) for candidate in candidates]
    reference = time.perf_counter() - start
    diversity = DiversityFilter(added)
    start = time.perf_counter()
    similarity = diversity.similarity(candidates)
    ours = time.perf_counter() - start
    print(f"{len(candidates)} candidates against {len(added)} texts: rouge_score {reference:.2f} s, ", end="")
    print(f"DiversityFilter {ours:.4f} s, {reference / ours:.0f} x faster, ", end="")
    print(f"largest difference {max(abs(similarity - expected)):.1e}")
    large = DiversityFilter(texts * 20)
    start = time.perf_counter()
    for candidate in candidates:
        large.nearest(candidate)
    print(f"one candidate against {len(large.texts):,} texts: {(time.perf_counter() - start) / len(candidates):.4f} s")


if __name__ == "__main__":
    main()

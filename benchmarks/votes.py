"""The vote against the published one, which compares all pairs of completions in both orders, on the same groups.

    python benchmarks/votes.py
    python benchmarks/votes.py --groups votes.jsonl     # your own: rows with `completions`

Seconds by the clock for a group, one core, medians over the groups. Reading by math-verify is most of ours.
"""

import argparse
import json
import logging
import random
import statistics
from pathlib import Path

from engine import seconds
from math_verify import parse, verify

from serl_trl import majority_vote


WORDS = "so we find that the sum of both terms is twice the area and hence the first side must be".split()
# Each row is one number, as a model may write it.
ANSWERS = [
    ["12", "12.0", "\\frac{24}{2}", " 12 ", "3 \\cdot 4"],
    ["\\frac{1}{2}", "0.5", "\\dfrac{1}{2}", "1/2", "\\frac{2}{4}"],
    ["2\\sqrt{3}", "\\sqrt{12}", "\\frac{6}{\\sqrt{3}}", "2 \\sqrt{3}", "3.4641"],
    ["x^2+2x+1", "(x+1)^2", "1 + 2x + x^2", "x(x+2)+1", "x^2 + 2x + 1"],
]


def make_groups(count: int, size: int, words: int) -> list[list[str]]:
    """Return groups of completions: half of each give one answer in several forms, the others something else."""
    rng, groups = random.Random(0), []
    for number in range(count):
        right, wrong = ANSWERS[number % len(ANSWERS)], [str(rng.randint(2, 40)) for _ in range(4)]
        answers = rng.choices(right, k=size // 2) + rng.choices(wrong, k=size - size // 2)
        rng.shuffle(answers)
        groups.append([f"{' '.join(rng.choices(WORDS, k=words))} \\boxed{{{answer}}}." for answer in answers])
    return groups


def all_pairs(completions: list[str]) -> list[float]:
    """Return the rewards by comparing each completion with each other, as SeRL's published code does."""
    equal = [[float(verify(parse(one), parse(other))) for other in completions] for one in completions]
    counts = [sum(row) for row in equal]
    return equal[counts.index(max(counts))]


def all_pairs_read_once(completions: list[str]) -> list[float]:
    """Return the same with each completion read once."""
    read = [parse(completion) for completion in completions]
    equal = [[float(verify(one, other)) for other in read] for one in read]
    counts = [sum(row) for row in equal]
    return equal[counts.index(max(counts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=Path, help="a .jsonl file; by default 24 groups of 16 are made up")
    path = parser.parse_args().groups
    logging.disable(logging.WARNING)  # math-verify names each text that it can't read
    if path:
        groups = [json.loads(line)["completions"] for line in path.read_text().splitlines()]
    else:
        groups = make_groups(24, 16, words=100)
    ways = {"all pairs": all_pairs, "all pairs, each read once": all_pairs_read_once, "`majority_vote`": majority_vote}
    majority_vote(groups[0])  # starts the worker
    took = {name: [] for name in ways}
    for group in groups:  # in turns, so that another job slows all
        for name, way in ways.items():
            took[name].append(seconds(way, group))
    ours = sum(took["`majority_vote`"])
    print("| vote | ms a group, median | worst | all, against `majority_vote` |\n| --- | --- | --- | --- |")
    for name, times in took.items():
        middle, worst = 1000 * statistics.median(times), 1000 * max(times)
        print(f"| {name} | {middle:.1f} | {worst:.1f} | {sum(times) / ours:.1f} |")
    same = sum(all_pairs_read_once(group) == list(majority_vote(group).rewards) for group in groups)
    print(f"\n{len(groups)} groups of {len(groups[0])}; the same rewards in {same}.")


if __name__ == "__main__":
    main()

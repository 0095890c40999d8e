"""Can the reading of answers be trusted? `python benchmarks/gold_answers.py [FILE...]`, labelled instructions.

A model that gives every true answer must score 100 %, and one that gives a wrong form of each must score 0 %. What scores
otherwise is listed, to judge by eye.
"""

import re
import sys
import time
from pathlib import Path

from serl_trl.answers.judging import read_true_answer
from serl_trl.evaluation.data import load_labelled
from serl_trl.evaluation.results import score
from serl_trl.markdown import table


FILES = sorted(Path(__file__).resolve().parents[2].glob("shared/data/eval/*.jsonl"))
_LETTER = r"(?<![\\A-Za-z])[A-Za-z]"  # that no LaTeX command begins with


def changed(gold: str, place: int) -> str:
    """Return the answer with one digit changed, the first (`place` 0) or the last (-1); a letter if it has no digit."""
    found = list(re.finditer(r"\d", gold)) or list(re.finditer(_LETTER, gold))
    if not found:
        return "7"  # `\\pi`, `-`
    character = found[place]
    other = str(int(character[0]) % 9 + 1) if character[0].isdigit() else ("Q" if character[0] == "Z" else "Z")
    return gold[: character.start()] + other + gold[character.end() :]


FORMS = {
    "true answer": lambda gold: f"It is \\boxed{{{gold}}}.",
    "first digit": lambda gold: f"It is \\boxed{{{changed(gold, 0)}}}.",
    "last digit": lambda gold: f"It is \\boxed{{{changed(gold, -1)}}}.",
    "plus one": lambda gold: f"It is \\boxed{{{gold} + 1}}.",
    "other text": lambda gold: "It is \\boxed{\\text{none of these}}.",
    "no answer": lambda gold: "I don't know.",
}


def judge(path: str | Path, every: int = 1) -> tuple[dict[str, float], list[str]]:
    """Return the score of each form in [0, 1] on every so many rows of a file, and a line for each that is unexpected."""
    rows = list(enumerate(load_labelled(str(path)), start=1))[::every]
    right, unexpected = dict.fromkeys(FORMS, 0), []
    for number, row in rows:
        gold = read_true_answer(row["true_answer"])
        for name, form in FORMS.items():
            (correct,) = score(row, [form(gold)])["correct"]
            right[name] += correct
            if correct != (name == "true answer"):
                unexpected.append(f"row {number}, {name}: {gold!r} and {form(gold)!r} count as {correct}")
    return {name: count / len(rows) for name, count in right.items()}, unexpected


def main(files: list[str | Path]) -> None:
    if not files:
        sys.exit("There are no files in ../shared/data/eval. Name some: python benchmarks/gold_answers.py FILE...")
    columns, unexpected = {}, []
    for path in files:
        start = time.perf_counter()
        try:
            scores, lines = judge(path)
        except ValueError as error:  # a true answer that can't be read, with its row and instruction
            unexpected.append(str(error))
            continue
        columns[Path(path).name] = [f"{100 * score:.2f}" for score in scores.values()]
        columns[Path(path).name].append(f"{time.perf_counter() - start:.0f}")
        unexpected += [f"{Path(path).name}, {line}" for line in lines]
    labels = [*(f"{name}, % right" for name in FORMS), "seconds"]
    print(table(list(columns), [[label, *cells] for label, *cells in zip(labels, *columns.values(), strict=True)]))
    print("\n".join(["", *unexpected]))


if __name__ == "__main__":
    main(sys.argv[1:] or FILES)

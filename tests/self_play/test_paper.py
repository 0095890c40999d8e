"""The method of the paper does what it did before any other: a run of it, written down by the code of then.

`paper_run.json` was written by the code of commit 4f61574, the last that knew no other method, with one change: how
many instructions it answers ahead, which commit f2e7ae9 changed for every method.
"""

import json
from pathlib import Path
from zlib import crc32

import pytest
from conftest import ledger_rows
from test_loop import NOUNS, make_loader


WRITTEN_DOWN = json.loads((Path(__file__).parent / "paper_run.json").read_text(encoding="utf-8"))
FLAWS = (
    "Count",
    "Draw a map of the {} ones",
    "Write a program for {} ones",
    "* Count {} ones twice",
    "Çount {} ones too",
    "Count all the ones of the {}",
)


def reply(prompt, index: int) -> str:
    """Answer as a model that is sure of some instructions, lost at others, and writes flawed ones, too."""
    text = prompt[-1]["content"]
    number = crc32(text.encode())  # the same on every machine
    if not text.endswith("9."):  # no few-shot examples: an instruction to answer
        agreeing = number % 9  # of eight
        answers = (f"\\boxed{{{0 if index < agreeing else index}}}", f"It is {index}.", "")
        return answers[0 if crc32(f"{number} {index}".encode()) % 8 else 1 + number % 2]
    lines = []
    for line in range(6):
        draw = crc32(f"{number} {line}".encode())
        nouns = [NOUNS[draw // 22**place % 22] for place in range(5)]
        sound = f"Count {' '.join(nouns)} {draw % 50}"
        lines.append(FLAWS[draw // 4 % 6].format(nouns[0]) if draw % 4 == 0 else sound)
    return "\n".join([lines[0], *(f"{10 + n}. {line}" for n, line in enumerate(lines[1:]))])


@pytest.mark.parametrize("from_seeds", [False, True])
def test_the_method_of_the_paper_is_what_it_was(tmp_path, from_seeds):
    settings = {"num_generations": 8, "generation_batch_size": 32, "instruction_requests": 4, "method": "paper"}
    loader = make_loader(tmp_path, reply, from_seeds=from_seeds, **settings)
    written = WRITTEN_DOWN["seeds" if from_seeds else "instructions"]
    for expected in written["batches"]:
        batch = next(loader)
        groups = [[group.candidate_id, group.surplus, list(group.vote.rewards)] for group in batch.groups]
        assert groups == expected["groups"]
        assert {name: batch.metrics[name] for name in expected["metrics"]} == expected["metrics"]
    for row, expected in zip(ledger_rows(tmp_path), written["ledger"], strict=True):
        assert {name: row[name] for name in expected} == expected

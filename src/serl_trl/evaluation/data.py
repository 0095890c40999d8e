"""Labelled instructions to evaluate on: every row counts, and every true answer can be read."""

import os
import re
import warnings
from pathlib import Path

from datasets import Dataset

from ..answers.judging import read_true_answer
from ..seeds import LETTERS, as_answer, read_rows, row_instruction, source_name


_WORDS = re.compile(r"[^\W\d_]{2,}(?:\s+[^\W\d_]+)*[.!]?")


def load_labelled(
    source: str | os.PathLike | Dataset, column: str | None = None, answer_format: str = "math"
) -> list[dict]:
    """Load instructions with their true answers.

    Unlike [`load_seeds`], it leaves nothing out: a row that cannot be used is an error.

    Args:
        source, column: As in [`load_seeds`]; of a dataset on the Hub the `test` split, if it has one.
        answer_format (`str`, *optional*, defaults to `"math"`): See [`parse_answer`].

    Returns:
        `list[dict]`: `{"instruction": text, "level": text or None, "true_answer": text as written}` for each row.

    Raises:
        ValueError: As in [`read_rows`], or with the first row that has no instruction, or no answer that can be read.
    """
    rows, column, name = read_rows(source, column, split="test")
    if not any("answer" in row for row in rows):
        columns = ", ".join(dict.fromkeys(key for row in rows for key in row))
        raise ValueError(f"{name} has no column 'answer'. Its columns are: {columns}. Rename the one of true answers.")
    labelled, unreadable, words = [], [], []
    for number, row in enumerate(rows, start=1):
        place = f"{name}, row {number}"
        instruction = row_instruction(row, column, place)
        if instruction is None or not instruction.strip():
            raise ValueError(f"{place}: its {column!r} is {row.get(column)!r}. Give it a text.")
        true_answer, level = as_answer(row.get("answer"), place), row.get("level")
        level = None if level is None else str(level).removeprefix("Level ")  # MATH writes "Level 5"
        try:
            _check_answer(true_answer, row.get("options"), answer_format)
        except ValueError as error:
            unreadable.append(f"{place}, {instruction!r}: {error}")
        if answer_format == "math" and true_answer is not None and _WORDS.fullmatch(true_answer):
            words.append(f"{place}, {true_answer!r}")
        labelled.append({"instruction": instruction, "level": level, "true_answer": true_answer})
    if unreadable:
        raise ValueError(f"{unreadable[0]} So it is with {len(unreadable)} of {len(rows)} rows.")
    if words:
        warnings.warn(  # once, however often it is evaluated
            f"{words[0]}: with answer_format 'math', words are right only where they are given as they are. So it is with "
            f"{len(words)} of {len(rows)} rows. For letters of options set answer_format to 'choice', for words to 'text'."
        )
    return labelled


def _check_answer(true_answer: str | None, options: list[str] | None, answer_format: str) -> None:
    if true_answer is None:
        raise ValueError("It has no answer. Give it one, or leave the row out.")
    answer = read_true_answer(true_answer, answer_format)
    if not options:
        return
    if answer_format != "choice":
        raise ValueError(f"It has options, and answer_format is {answer_format!r}. Set answer_format to 'choice'.")
    if answer not in LETTERS[: len(options)]:
        raise ValueError(f"Its answer {true_answer!r} is none of its {len(options)} options. Correct it.")


def card_name(source: str | os.PathLike | Dataset) -> str:
    """Return the name of a source in a model card: of a file without its extension, of a dataset on the Hub as it is."""
    name = source_name(source)
    return Path(name).stem if isinstance(source, (str, os.PathLike)) and Path(source).exists() else name


def data_name(source: str) -> str:
    """Return the short name of a source: its [`card_name`], without the owner of a dataset on the Hub."""
    return card_name(source).rpartition("/")[2]

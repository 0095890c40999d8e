"""Read the user's instructions from wherever they are."""

import csv
import json
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass
from numbers import Number
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, get_dataset_split_names, load_dataset

from .self_play.parsing import squeeze


logger = logging.getLogger(__name__)

INSTRUCTION_COLUMNS = ("prompt", "problem", "question", "instruction")
LETTERS = "ABCDEFGHIJ"  # of the options of a multiple-choice question; as many as `answer_format="choice"` reads


@dataclass(frozen=True)
class Seeds:
    """The user's instructions, as they are carried from where they are read to where they are used.

    Attributes:
        true_answers (`dict[str, str | None]`):
            The true answer, `None` where there is none, of each instruction; texts as written, no two alike but for
            white space.
        name (`str`): Name of the file without its folders, or of the dataset.
    """

    true_answers: dict[str, str | None]
    name: str

    @property
    def instructions(self) -> list[str]:
        """The texts."""
        return list(self.true_answers)


def load_seeds(source: str | os.PathLike | Dataset | list[str], column: str | None = None) -> Dataset:
    """Load seed instructions, with their true answers where there are any.

    Rows whose instruction is not text, is empty, or stood before are left out, counted and reported in one warning.
    A row's `options`, if it has any, follow its instruction as in [`row_instruction`].

    Args:
        source (`str`, `PathLike`, [`~datasets.Dataset`] or `list[str | dict]`):
            A local file (.jsonl, .json, .csv, .parquet, or .txt with one instruction a line), the name of a dataset
            on the Hub (its `train` split is read), a dataset, or a list of instructions or rows.
        column (`str`, *optional*):
            The column of the instructions. By default the first of `prompt`, `problem`, `question` and `instruction`.

    Returns:
        [`~datasets.Dataset`]:
            Columns `instruction` (text as written) and, if the source has answers, `answer` (text or `None`); the
            dataset's `info.dataset_name` is the name of the source.

    Raises:
        ValueError: As in [`read_rows`], [`row_instruction`] and [`as_answer`], or if no instruction is left.
    """
    seeds = read_seeds(source, column)
    columns = {"instruction": seeds.instructions}
    if any(seeds.true_answers.values()):
        columns["answer"] = list(seeds.true_answers.values())
    return Dataset.from_dict(columns, info=DatasetInfo(dataset_name=seeds.name))


def read_seeds(source, column: str | None = None) -> Seeds:
    """Read seed instructions; arguments and errors as in [`load_seeds`]. What was read before is returned as it is."""
    if isinstance(source, Seeds):
        return source
    rows, column, name = read_rows(source, column)
    answers, left_out, seen = {}, Counter(), set()
    for number, row in enumerate(rows, start=1):
        place = f"{name}, row {number}"
        text, answer = row_instruction(row, column, place), as_answer(row.get("answer"), place)
        if text is None:
            left_out["not text"] += 1
        elif not squeeze(text):
            left_out["empty"] += 1
        elif squeeze(text) in seen:
            left_out["duplicate"] += 1
        else:
            seen.add(squeeze(text))
            answers[text] = answer
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        logger.warning(f"{name}: {left_out.total()} of {len(rows)} rows left out ({counts}).")
    if not answers:
        raise ValueError(f"{name} has no instruction in its column {column!r}. Give it one text a row.")
    return Seeds(answers, source_name(source))


def source_name(source) -> str:
    """Return the name of a source of rows: of a file without its folders, of a dataset on the Hub as it is."""
    if isinstance(source, Dataset) and source.info.dataset_name:
        return source.info.dataset_name
    if not isinstance(source, (str, os.PathLike)):
        return "a dataset in memory"
    return Path(source).name if Path(source).exists() else str(source)


def read_rows(
    source: str | os.PathLike | Dataset | list[str], column: str | None = None, split: str = "train"
) -> tuple[list[dict], str, str]:
    """Return all rows of a source as they are, the column of the instructions, and the source's name for messages.

    `source` and `column` are as in [`load_seeds`]. A dataset on the Hub without that split gives its `train` split.

    Raises:
        ValueError: if a file is missing, empty, broken or of an unknown extension, or if no column fits.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "the dataset"
    if isinstance(source, Dataset):
        rows = source.to_list()
    elif isinstance(source, list):
        rows = [row if isinstance(row, dict) else {"instruction": row} for row in source]
    elif isinstance(source, (str, os.PathLike)):
        rows = _read_source(str(source), split)
    else:
        raise ValueError(
            f"Instructions can't be read from a {type(source).__name__}. Pass a Dataset, e.g. one of its splits."
        )
    if not rows:
        raise ValueError(f"{name} is empty. Give it one instruction a row.")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if column is not None and column not in columns:
        raise ValueError(f"{name} has no column {column!r}. Its columns are: {', '.join(columns)}.")
    column = column or next((known for known in INSTRUCTION_COLUMNS if known in columns), None)
    if column is None:
        raise ValueError(
            f"{name} has none of the columns {', '.join(INSTRUCTION_COLUMNS)}. Its columns are: {', '.join(columns)}. "
            "Rename one, or name it: `column`, for seeds `--seeds_column`, for serl-trl eval `--data_column`."
        )
    return rows, column, name


def row_instruction(row: dict, column: str, place: str) -> str | None:
    """Return the instruction of a row, or `None` if it is not text.

    The texts in the row's `options`, if it has any, follow as lines "(A) ...", "(B) ..." (MMLU-Pro, arXiv 2406.01574).

    Raises:
        ValueError: if `options` is no list of texts, or a longer one than there are letters; `place` says where.
    """
    text, options = _as_text(row.get(column)), row.get("options")
    if text is None or not options:
        return text
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{place}: options is {options!r}. Make it a list of texts, or rename the column.")
    if len(options) > len(LETTERS):
        raise ValueError(f"{place}: there are {len(options)} options. Leave at most {len(LETTERS)}, A to J.")
    return "\n".join([text, *(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))])


def as_answer(value, place: str) -> str | None:
    """Return the text of an `answer`, which may be a number; `None` if there is none.

    Raises:
        ValueError: if it is neither text nor number; `place` says where.
    """
    if value is None or value != value:  # NaN is what pandas writes where there is none
        return None
    if not isinstance(value, str | Number):
        raise ValueError(f"{place}: answer is {value!r}. Make it a text or a number, or rename the column.")
    return str(value).strip() or None


def _as_text(value) -> str | None:
    """Return a text, or the content of a conversation of one user message; `None` for anything else."""
    match value:
        case str(text) | [{"content": str(text)}]:
            # Half of a surrogate pair is taken by no tokenizer or file.
            return None if re.search("[\ud800-\udfff]", text) else text
    return None


def _read_jsonl(path: Path) -> list[dict]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [_as_row(_decode(line, path, number), path, number) for number, line in numbered]


def _read_json(path: Path) -> list[dict]:
    content = _decode(path.read_text(encoding="utf-8-sig"), path)
    if not isinstance(content, list):
        raise ValueError(f"{path} is a JSON {type(content).__name__}. Make it one list of objects or texts.")
    return [_as_row(value, path, number) for number, value in enumerate(content, start=1)]


def _decode(text: str, path: Path, line: int | None = None):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {line or error.lineno}: broken JSON ({error.msg}). Correct it.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise ValueError(f"{path}{f', line {line}' if line else ''}: {error}. Write the number as a text.") from error


def _as_row(value, path: Path, number: int) -> dict:
    if isinstance(value, str):
        return {"instruction": value}
    if not isinstance(value, dict):
        raise ValueError(f"{path}, row {number}: expected an object or a text, got {type(value).__name__}.")
    return value


def _read_csv(path: Path) -> list[dict]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        separator = next((mark for mark in ",;\t" if mark in header), ",")  # Excel's, where numbers have a comma
        # If not strict, an open quote takes in the rows up to the next one.
        reader = csv.DictReader(stream, strict=True, delimiter=separator)
        line = 1
        try:
            line += bool(reader.fieldnames)
            for row in reader:
                if any(row.pop(None, [])):
                    raise csv.Error("it has more cells than the first one")
                rows.append({key: value for key, value in row.items() if key})
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{path} can't be read: the row that begins in line {line} has a quote that is not closed, or a comma "
                f"outside quotes ({error}). Put the whole text in quotes, and double the quotes in it."
            ) from error
    return rows


def _read_parquet(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def _read_text(path: Path) -> list[dict]:
    return [{"instruction": line} for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


def _read_source(source: str, split: str) -> list[dict]:
    path = Path(source)
    extension = path.suffix.lower()
    if not path.exists():
        if extension in _READERS or source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise ValueError(f"There is no file {source!r}. Check its path.")
        try:
            if split != "train" and split not in get_dataset_split_names(source):
                split = "train"
            return load_dataset(source, split=split).to_list()
        except Exception as error:  # whatever the Hub, the network or the dataset's own files may bring
            raise ValueError(
                f"{source!r} is no file here, and can't be loaded from the Hub ({type(error).__name__}: {error})."
            ) from error
    if extension not in _READERS or not path.is_file():
        raise ValueError(f"Instructions can't be read from {source!r}. Use a file that ends in {', '.join(_READERS)}.")
    try:
        return _READERS[extension](path)
    except (UnicodeDecodeError, pa.ArrowInvalid, RecursionError) as error:
        raise ValueError(
            f"{source} can't be read ({error}). Make it what its name says; texts are in UTF-8."
        ) from error

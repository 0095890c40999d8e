"""Read the user's instructions from wherever they are."""

import csv
import json
import logging
import os
from collections import Counter
from pathlib import Path

from datasets import Dataset, load_dataset

from .self_instruction.parsing import squeeze


logger = logging.getLogger(__name__)

INSTRUCTION_COLUMNS = ("prompt", "problem", "question", "instruction")
_READERS = {}  # file extension -> function from the path to its rows


def load_seeds(source: str | os.PathLike | Dataset | list[str], column: str | None = None) -> Dataset:
    """Load seed instructions, with their true answers where there are any.

    Rows whose instruction is not text, is empty, or stood before are left out, counted and reported in one warning.

    Args:
        source (`str`, `PathLike`, [`~datasets.Dataset`] or `list[str]`):
            A local file (.jsonl, .json, .csv, .parquet, or .txt with one instruction a line), the name of a dataset
            on the Hub (its `train` split is read), a dataset, or a list of instructions.
        column (`str`, *optional*):
            The column of the instructions. By default the first of `prompt`, `problem`, `question` and `instruction`.

    Returns:
        [`~datasets.Dataset`]:
            Columns `instruction` (text as written) and, if the source has an `answer` column, `answer` (text or
            `None`).

    Raises:
        ValueError:
            If the file is missing, empty, broken (with the line's number) or of an unknown extension, if no column
            fits (the columns are listed), or if no instruction is left.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "the dataset"
    if isinstance(source, Dataset):
        rows = source.to_list()
    elif isinstance(source, list):
        rows = [{"instruction": text} for text in source]
    elif isinstance(source, (str, os.PathLike)):
        rows = _read_rows(str(source))
    else:
        raise ValueError(
            f"Seeds can't be read from a {type(source).__name__}. Pass a Dataset, e.g. one of its splits."
        )
    if not rows:
        raise ValueError(f"{name} is empty. Give it one instruction a row.")
    column = _find_column(rows, column, name)
    seeds, left_out = [], Counter()
    seen = set()
    for row in rows:
        text = _as_text(row.get(column))
        if text is None:
            left_out["not text"] += 1
        elif not squeeze(text):
            left_out["empty"] += 1
        elif squeeze(text) in seen:
            left_out["duplicate"] += 1
        else:
            seen.add(squeeze(text))
            seeds.append({"instruction": text, "answer": row.get("answer")})
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        logger.warning(f"{name}: {left_out.total()} of {len(rows)} rows left out ({counts}).")
    if not seeds:
        raise ValueError(f"{name} has no instruction in its column {column!r}. Give it one text a row.")
    columns = {"instruction": [seed["instruction"] for seed in seeds]}
    if any("answer" in row for row in rows):
        columns["answer"] = [_as_answer(seed["answer"]) for seed in seeds]
    return Dataset.from_dict(columns)


def _find_column(rows: list[dict], column: str | None, name: str) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if column is not None and column not in columns:
        raise ValueError(f"{name} has no column {column!r}. Its columns are: {', '.join(columns)}.")
    found = column or next((known for known in INSTRUCTION_COLUMNS if known in columns), None)
    if found is None:
        raise ValueError(
            f"{name} has none of the columns {', '.join(INSTRUCTION_COLUMNS)}. Its columns are: "
            f"{', '.join(columns)}. Rename one, or name it with `column` (`--seeds_column`)."
        )
    return found


def _as_text(value) -> str | None:
    """Return a text, or the content of a conversation of one user message; `None` for anything else."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which no tokenizer or file takes
        return None
    return value


def _as_answer(value) -> str | None:
    return None if value is None else str(value).strip() or None


def _read_rows(source: str) -> list[dict]:
    path = Path(source)
    extension = path.suffix.lower()
    if not path.exists() and (extension in _READERS or source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ValueError(f"There is no file {source!r}. Check the path of the seeds.")
    if not path.exists():
        try:
            return load_dataset(source, split="train").to_list()
        except Exception as error:  # whatever the Hub, the network or the dataset's own files may bring
            raise ValueError(
                f"{source!r} is no file here, and can't be loaded from the Hub ({type(error).__name__}: {error})."
            ) from error
    if extension not in _READERS or not path.is_file():
        raise ValueError(f"Seeds can't be read from {source!r}. Use a file that ends in {', '.join(_READERS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{source} is empty. Give it one instruction a row.")
    try:
        return _READERS[extension](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 ({error}). Save it as UTF-8.") from error
    except (csv.Error, RecursionError) as error:
        raise ValueError(f"{source} can't be read ({error}). Check that it is what its name says.") from error


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            rows.append(_as_row(_decode(line, path, number), path, number))
    return rows


def _read_json(path: Path) -> list[dict]:
    content = _decode(path.read_text(encoding="utf-8-sig"), path)
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold one JSON list of objects or texts, got {type(content).__name__}.")
    return [_as_row(value, path, number) for number, value in enumerate(content, start=1)]


def _decode(text: str, path: Path, line: int | None = None):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {line or error.lineno}: broken JSON ({error.msg}). Correct it.") from error


def _as_row(value, path: Path, number: int) -> dict:
    if isinstance(value, str):
        return {"instruction": value}
    if not isinstance(value, dict):
        raise ValueError(f"{path}, row {number}: expected an object or a text, got {type(value).__name__}.")
    return value


def _read_csv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return [{key: value for key, value in row.items() if key} for row in csv.DictReader(stream)]


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file ({error}). Export it again.") from error


def _read_text(path: Path) -> list[dict]:
    return [{"instruction": line} for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


_READERS |= {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}

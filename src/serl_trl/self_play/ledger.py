"""The ledger: one row per candidate, in Parquet, readable while the run goes on."""

import json
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..atomic_write import atomic_write
from .carriers import Candidate


# The leading underscore says that it stays at home, as all that `hub/privacy.py` does not name: seeds are in it.
LEDGER_FOLDER = "_ledger"

MERGED = 100  # batches in one file, once none of them can change

_ARROW_TYPES = {
    int: pa.int64(),
    int | None: pa.int64(),
    float | None: pa.float64(),
    str: pa.string(),
    str | None: pa.string(),
    list[str]: pa.list_(pa.string()),
    list[str | None]: pa.list_(pa.string()),
    list[float]: pa.list_(pa.float64()),
    list[bool]: pa.list_(pa.bool_()),
}
SCHEMA = pa.schema([(field.name, _ARROW_TYPES[field.type]) for field in fields(Candidate)])
_NAME = re.compile(r"batch-(\d{6,})(?:-(\d{6,}))?\.parquet")


class LedgerFile(NamedTuple):
    """A file of the ledger, and the first and last generation batch in it."""

    first: int
    last: int
    path: Path


class Ledger:
    """Writes the rows of each generation batch to Parquet; the columns are the fields of [`Candidate`].

    A batch has a file of its own, `batch-000007.parquet`, until a hundred of them can't change any more: then one file
    takes their place, `batch-000000-000099.parquet`. Each file is written whole and then renamed, so that a reader or a
    full disk never finds half a file. Read all of them by
    `load_dataset("parquet", data_files="RUN/_ledger/*.parquet")`: in the order of their names, rows are in that of `id`.

    Args:
        output_dir (`str`): The run's folder.
        is_writer (`bool`): Whether this process writes.
    """

    def __init__(self, output_dir: str | os.PathLike, is_writer: bool = True):
        self.folder = Path(output_dir) / LEDGER_FOLDER
        self.is_writer = is_writer
        self.metadata: dict = {}  # written into the schema of each file, under `serl_trl`

    def write(self, batch: int, candidates: list[Candidate]) -> None:
        """Write the rows of generation batch `batch`, in place of what it held; no file for no rows."""
        if not self.is_writer:
            return
        if candidates:
            self._write(batch, batch, _as_table(candidates))
        if batch % MERGED == 1:  # the surplus of the batch before may still change its rows, but none earlier
            self._merge(batch - 1 - MERGED, batch - 2)

    def files(self) -> list[LedgerFile]:
        """Return the files in order, without those whose rows an interrupted merge left in a larger one, too."""
        found = [(path, _NAME.fullmatch(path.name)) for path in self.folder.glob("*.parquet")]
        files = [LedgerFile(int(name[1]), int(name[2] or name[1]), path) for path, name in found if name]
        whole: list[LedgerFile] = []
        for file in sorted(files, key=lambda file: (file.first, -file.last)):
            if not whole or file.last > whole[-1].last:
                whole.append(file)
        return whole

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return some columns, by default all, of every row in order of `id`; a run may go on writing meanwhile.

        The table's metadata are those of the last file. Raises `ValueError` if a file can't be read.
        """
        while True:
            files = self.files()
            try:
                tables = [_read(file.path, columns) for file in files]
            except ValueError:
                if self.files() == files:
                    raise
                continue  # a file was merged away after it was listed
            if not tables:
                return SCHEMA.empty_table().select(columns or SCHEMA.names)
            return pa.concat_tables(tables).replace_schema_metadata(tables[-1].schema.metadata)

    def admitted(self, next_batch: int, next_id: int) -> list[str]:
        """Return the model's own instructions that were admitted before batch `next_batch` and `next_id`, in order.

        Raises:
            ValueError: if one of the rows is missing or doubled, or a file is none of a ledger or can't be read.
        """
        for path in self.folder.glob("*.parquet"):
            if not _NAME.fullmatch(path.name):
                raise ValueError(f"{path} is no file of a ledger. Move it to another folder.")
        columns = ["id", "instruction", "fate", "parents"]
        tables = [_read(file.path, columns) for file in self.files() if file.first < next_batch]
        table = pa.concat_tables([SCHEMA.empty_table().select(columns), *tables]).filter(pc.field("id") < next_id)
        ids, wanted = table["id"].to_numpy(), np.arange(next_id)
        if not np.array_equal(ids, wanted):
            missing = np.setdiff1d(wanted, ids)
            raise ValueError(
                f"{self.folder} must hold the candidates 0 to {next_id - 1} of the checkpoint, in order: {len(missing)} "
                f"are missing ({_ranges(missing)}), {len(ids) + len(missing) - next_id} are there twice. Bring back the "
                "files as they were, or begin a new run in a new output_dir."
            )
        own = pc.list_value_length(pc.field("parents")) > 0  # a seed has none
        return table.filter(own & ~pc.field("fate").isin(["rejected", "unused"]))["instruction"].to_pylist()

    def resume(self, origin: "Ledger", next_batch: int, next_id: int, surplus: Collection[int]) -> list[Candidate]:
        """Go on before generation batch `next_batch`: drop what an interrupted run wrote after its checkpoint.

        Args:
            origin ([`Ledger`]): The ledger of the checkpoint's run, from which the rows come if it is not this one.
            next_batch (`int`): The batch that comes next.
            next_id (`int`): The id of its first candidate.
            surplus (`Collection[int]`): Ids whose fate that batch will settle.

        Returns:
            `list[Candidate]`: The latest rows, the surplus among them; `[]` where this process does not write.
        """
        if not self.is_writer:
            return []
        if origin.folder.resolve() != self.folder.resolve():
            for file in origin.files():
                with atomic_write(self.folder / file.path.name) as path:
                    shutil.copyfile(file.path, path)
        kept, latest = [file for file in self.files() if file.first < next_batch], []
        if kept and kept[-1].last >= next_batch - 1:
            first, _, path = kept.pop()
            rows = _read(path).filter(pc.field("id") < next_id)
            # The batch before gets a file of its own again; where it was merged, from its first surplus on.
            first_open = min(surplus, default=next_id) if first < next_batch - 1 else 0
            settled = rows.filter(pc.field("id") < first_open)
            if settled.num_rows:
                kept.append(self._write(first, next_batch - 2, settled))
            for row in rows.filter(pc.field("id") >= first_open).to_pylist():
                changes = {"fate": "surplus", "trained_step": None} if row["id"] in surplus else {}
                latest.append(Candidate(**row | changes))
            if latest:
                kept.append(self._write(next_batch - 1, next_batch - 1, _as_table(latest)))
        for path in {*self.folder.glob("*.parquet")} - {file.path for file in kept}:
            path.unlink()
        return latest

    def _merge(self, first: int, last: int) -> None:
        """Put the files of batches `first` to `last` into one."""
        files = [file for file in self.files() if first <= file.first and file.last <= last]
        if len(files) > 1:
            self._write(first, last, pa.concat_tables([_read(file.path) for file in files]))
            for file in files:
                file.path.unlink()

    def _write(self, first: int, last: int, rows: pa.Table) -> LedgerFile:
        name = f"batch-{first:06d}.parquet" if first == last else f"batch-{first:06d}-{last:06d}.parquet"
        with atomic_write(self.folder / name) as path:
            pq.write_table(rows.replace_schema_metadata({"serl_trl": json.dumps(self.metadata)}), path)
        return LedgerFile(first, last, self.folder / name)


def _as_table(candidates: list[Candidate]) -> pa.Table:
    columns = {name: [getattr(candidate, name) for candidate in candidates] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a file; raise `ValueError` with its name if it can't be read or has other columns."""
    try:
        with pq.ParquetFile(path) as file:
            names, table = file.schema_arrow.names, file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} can't be read ({error}). Bring back the file as it was, or begin a new run in a new output_dir."
        ) from error
    if names != SCHEMA.names:
        raise ValueError(
            f"{path} is a ledger of another version. Go on with that version, or begin a new run in a new output_dir."
        )
    return table


def _ranges(numbers: np.ndarray) -> str:
    """Return sorted numbers in a few words: "3, 7 to 12"; the first ten ranges of them."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:10] if len(run)]
    return ", ".join(texts + ["..."] * (len(runs) > 10)) or "none"

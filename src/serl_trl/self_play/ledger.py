"""The ledger: one row per candidate, in Parquet, readable while the run goes on."""

import os
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic_write import atomic_write
from .carriers import Candidate


# The leading underscore keeps the instructions out of `push_to_hub`, which skips `_*`: they are the user's.
LEDGER_FOLDER = "_ledger"

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


class Ledger:
    """Writes one Parquet file for each generation batch; the columns are the fields of [`Candidate`].

    Each file is written whole and then renamed, so that a reader or a full disk never finds half a file. Read all of
    them by `load_dataset("parquet", data_files="RUN/_ledger/*.parquet")`.

    Args:
        output_dir (`str`): The run's folder.
        is_writer (`bool`): Whether this process writes.
    """

    def __init__(self, output_dir: str | os.PathLike, is_writer: bool = True):
        self.folder = Path(output_dir) / LEDGER_FOLDER
        self.is_writer = is_writer

    def write(self, batch: int, candidates: list[Candidate]) -> None:
        """Write the rows of generation batch `batch`, in place of what it held; no file for no rows."""
        if not self.is_writer or not candidates:
            return
        table = pa.Table.from_pylist([asdict(candidate) for candidate in candidates], schema=SCHEMA)
        with atomic_write(self._path(batch)) as path:
            pq.write_table(table, path)

    def resume(self, next_batch: int) -> list[Candidate]:
        """Drop what an interrupted run wrote after its checkpoint, and return the rows of the batch before."""
        for path in self.folder.glob("batch-*.parquet"):
            if self.is_writer and int(path.stem.removeprefix("batch-")) >= next_batch:
                path.unlink()
        last = self._path(next_batch - 1)
        return [Candidate(**row) for row in pq.read_table(last).to_pylist()] if last.exists() else []

    def _path(self, batch: int) -> Path:
        return self.folder / f"batch-{batch:06d}.parquet"

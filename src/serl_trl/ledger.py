"""The ledger: one row per candidate, in Parquet, readable while the run goes on."""

import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .files import written_whole
from .types import Candidate


# The leading underscore keeps the instructions out of `push_to_hub`, which skips `_*`: they are the user's.
LEDGER_FOLDER = "_ledger"

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "step": pa.int64(),
        "round": pa.int64(),
        "instruction": pa.string(),
        "parents": pa.list_(pa.string()),
        "verdict": pa.string(),
        "reason": pa.string(),
        "nearest": pa.string(),
        "rouge_l": pa.float64(),
        "answers": pa.list_(pa.string()),
        "votes": pa.list_(pa.float64()),
        "pseudo_label": pa.string(),
        "pass_rate": pa.float64(),
        "fate": pa.string(),
        "trained_step": pa.int64(),
    }
)


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
        with written_whole(self._path(batch)) as path:
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

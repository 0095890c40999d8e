"""The ledger as a dataset that may be shown: every candidate, and the text of those that hold no seed's."""

import os
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ..markdown import code_block, escaped
from ..self_play.ledger import LEDGER_FOLDER, SCHEMA
from .card import method, settings_yaml
from .privacy import PRIVATE_COLUMNS, folded, holds_seed
from .run_record import RunRecord


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def read_instructions(run: str | os.PathLike) -> tuple[RunRecord, list[dict]]:
    """Return what a run was and the rows of its ledger.

    Raises:
        ValueError: As in [`RunRecord.load`], or if there is no ledger, or its instructions are the seeds.
    """
    paths = sorted((Path(run) / LEDGER_FOLDER).glob("batch-*.parquet"))
    for path in paths:
        if pq.read_schema(path).names != SCHEMA.names:
            raise ValueError(f"{path} is a ledger of another version. Push without push_instructions.")
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    if not rows:
        raise ValueError(f"{str(run)!r} has no ledger, so there are no instructions. Push without push_instructions.")
    if not any(row["parents"] for row in rows):
        raise ValueError(
            f"The instructions of {str(run)!r} are its seeds (instruction_source is 'seeds'), which are never pushed. "
            "Push without push_instructions."
        )
    return RunRecord.load(run), rows


def was_admitted(row: dict) -> bool:
    """Return whether a row of the ledger passed the filters of quality and diversity."""
    return row["fate"] not in ("rejected", "unused")


def without_seeds(rows: list[dict], seeds: list[str]) -> tuple[list[dict], list[dict]]:
    """Return the rows that may be shown with their text, and the others without it.

    Shown is what was admitted, as it differs from every seed by the diversity filter, unless it has the whole text of
    a seed in it or in its answers; with `diversity_threshold` 1 it must differ in at least one word, too.

    Few-shot examples that were no instructions of the run's own count as seeds too, and so do instructions without
    few-shot examples, which were seeds. Neither list has the columns that hold seeds.
    """
    own = {row["instruction"] for row in rows if was_admitted(row) and row["parents"]}
    shown = {text for row in rows for text in [*row["parents"], row["nearest"]] if text}  # of an earlier seeds' file
    shown |= {row["instruction"] for row in rows if not row["parents"]}
    known = list(map(folded, {*seeds, *(shown - own)}))
    train, withheld = [], []
    for row in rows:
        row = {name: value for name, value in row.items() if name not in PRIVATE_COLUMNS}
        written = [row["instruction"], row["pseudo_label"], *row["answers"], *row["slow_answers"]]
        differs = was_admitted(row) and (row["rouge_l"] or 0.0) < 1.0
        if differs and not holds_seed(written, known):
            train.append(row)
        else:
            withheld.append(row | {"instruction": None, "answers": [], "slow_answers": [], "pseudo_label": None})
    return train, withheld


def write_dataset(record: RunRecord, rows: list[dict], folder: str | os.PathLike, model_id: str) -> None:
    """Write what may be shown of a run's ledger, from [`read_instructions`], into a folder as a dataset with its card.

    The card links to `model_id`, the repository of the run's model. The ledger stays as it is.
    """
    train, withheld = without_seeds(rows, record.seeds)
    data = Path(folder) / "data"
    data.mkdir(parents=True)
    schema = pa.schema([field for field in SCHEMA if field.name not in PRIVATE_COLUMNS])
    data_files = []
    for name, part in {"train": train, "withheld": withheld}.items():
        pq.write_table(pa.Table.from_pylist(part, schema=schema), data / f"{name}.parquet")
        data_files.append({"split": name, "path": f"data/{name}.parquet"})
    reasons = Counter(row["reason"] or row["fate"] for row in withheld)
    metadata = DatasetCardData(
        tags=["serl", "synthetic", "trl"],
        size_categories=next((name for size, name in _SIZES if len(rows) < size), "n>1M"),
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    template = files("serl_trl").joinpath("templates", "dataset_card.md").read_text(encoding="utf-8")
    text = template.format(
        model_id=model_id,
        method=method(record.settings),
        seeds=len(record.seeds),
        seeds_name=escaped(record.seeds_name),
        base_model=escaped(record.base_model),
        admitted=len(train),
        withheld=len(withheld),
        reasons=", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none",
        recipe=code_block(settings_yaml(record.settings), "yaml"),
    )
    DatasetCard(f"---\n{metadata}\n---\n\n{text}").save(Path(folder) / "README.md")

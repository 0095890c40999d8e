"""What a run's folder holds, as plain data; also while the run goes on."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..hub.run_record import RECORD_FILE, RunRecord
from ..self_play.ledger import LEDGER_FOLDER, Ledger
from ..self_play.seed_evidence import Evidence
from ..training.checkpoints import final_state, list_checkpoints


COLUMNS = "id step instruction fate reason nearest rouge_l pseudo_label pass_rate trained_step".split()


@dataclass(frozen=True)
class Run:
    """A run, as far as it is.

    Attributes:
        name (`str`): Its name on the page, e.g. `"outputs/mine"` or `"outputs/mine/iteration-2"`.
        ledger (`pa.Table`): `COLUMNS`, `answers` and `parents` of each candidate.
        rows (`list[dict]`): The ledger without the lists: `COLUMNS` of each candidate, in order of `id`.
        log (`list[dict]`): Trainer's `log_history` up to the last checkpoint or, if it is finished, the end.
        is_finished (`bool`): Whether the model was saved at its end.
        evidence ([`Evidence`], *optional*): What the start answers to the seeds, if it was asked.
        record ([`RunRecord`], *optional*): Seeds, settings, versions and command, once they are written.
        evaluations (`dict[str, dict]`): `results.json` of `serl-trl eval` by path.
    """

    name: str
    ledger: pa.Table
    rows: list[dict]
    log: list[dict]
    is_finished: bool
    evidence: Evidence | None = None
    record: RunRecord | None = None
    evaluations: dict[str, dict] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, as far as the log or the ledger knows."""
        logged = [entry["step"] for entry in self.log]
        return max([*logged, *(row["trained_step"] + 1 for row in self.trained)], default=0)

    @property
    def trained(self) -> list[dict]:
        """The rows that were trained on."""
        return [row for row in self.rows if row["fate"] == "trained"]

    @property
    def seeds(self) -> list[str]:
        """The seeds, by the record or else as the few-shot examples of the first step; none if they were trained on."""
        if self.record is not None:
            return self.record.seeds
        first = self.ledger.filter(pc.field("step") == 0)
        return sorted({text for texts in first["parents"].to_pylist() for text in texts})


def read_runs(folder: str | os.PathLike) -> list[Run]:
    """Return the run in a folder, or the iterations in it.

    Raises:
        ValueError: if there is no folder, no run or no candidate in it, or if a file of it can't be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}. Name the output_dir of a run.")
    name = "/".join(folder.resolve().parts[-2:])  # runs in several folders may be called alike
    if (folder / LEDGER_FOLDER).is_dir():
        return [read_run(folder, name)]
    numbers = [path.parent.name.removeprefix("iteration-") for path in folder.glob(f"iteration-*/{LEDGER_FOLDER}")]
    iterations = [f"iteration-{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]
    if not iterations:
        raise ValueError(
            f"{str(folder)!r} has no {LEDGER_FOLDER}: no run has made a batch in it. Name another folder."
        )
    return [read_run(folder / iteration, f"{name}/{iteration}") for iteration in iterations]


def read_run(folder: Path, name: str) -> Run:
    """Return the run whose ledger lies in a folder; raise `ValueError` as [`read_runs`] does."""
    ledger = Ledger(folder).read([*COLUMNS, "answers", "parents"])
    if not ledger.num_rows:
        raise ValueError(f"{str(folder / LEDGER_FOLDER)!r} is empty. Come back after the run's first batch.")
    last = final_state(folder)
    states = [last, *map(final_state, list_checkpoints(folder))]
    states = [state for state in states if state is not None]
    log = max(states, key=lambda state: state["global_step"])["log_history"] if states else []
    return Run(
        name,
        ledger,
        ledger.select(COLUMNS).to_pylist(),
        log,
        last is not None,
        _evidence(ledger, folder),
        RunRecord.load(folder) if (folder / RECORD_FILE).is_file() else None,
        _evaluations(folder),
    )


def _evidence(ledger: pa.Table, folder: Path) -> Evidence | None:
    try:
        values = json.loads((ledger.schema.metadata or {}).get(b"serl_trl", b"{}"))
        return Evidence(**values) if values else None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The ledger in {folder} is of another version ({error}). Report it with that one."
        ) from error


def _evaluations(folder: Path) -> dict[str, dict]:
    """Return the evaluations in a run's folder, in the folders in it, and of its model in the folders beside it."""
    found = {}
    inside = {*folder.glob("results.json"), *folder.glob("*/results.json")}
    for path in sorted({*inside, *folder.resolve().parent.glob("*/results.json")}):
        results = _results(path)
        if results and (path in inside or Path(results["settings"]["model"]).resolve() == folder.resolve()):
            found[str(path)] = results
    return found


def _results(path: Path) -> dict | None:
    """Return what `serl-trl eval` wrote; `None` if another program wrote the file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_ours = isinstance(results, dict) and "datasets" in results and "model" in (results.get("settings") or {})
    return results if is_ours else None

"""A run's folder as a training leaves it, written without one."""

import json
from pathlib import Path

from serl_trl.hub.run_record import RunRecord
from serl_trl.self_play import Ledger
from serl_trl.self_play.carriers import Candidate


SEEDS = [f"What is {first} plus {second} ?" for first in range(2, 8) for second in range(2, 8)]


def candidate(number: int, step: int, instruction: str, **changes) -> Candidate:
    """Return a candidate that was trained on at its step, with three answers of four that agree."""
    trained = {"fate": "trained", "trained_step": step, "pseudo_label": str(number), "pass_rate": 0.75}
    answers = {"answers": [str(number)] * 3 + [None], "rewards": [1.0] * 3 + [0.0], "timed_out": [False] * 4}
    return Candidate(number, step, 1, instruction, SEEDS[:2], **trained | answers | changes)


def rejected(number: int, step: int, instruction: str, reason: str = "too_similar", **changes) -> Candidate:
    """Return a rejected candidate."""
    return Candidate(number, step, 1, instruction, SEEDS[:2], "rejected", reason, **changes)


def logged(step: int, **values) -> dict:
    """Return an entry of Trainer's log."""
    names = {"reward": 0.5, "self_rewarding/pass_rate": 0.6, "self_rewarding/in_band_ratio": 0.5}
    return {"step": step, **names, **values}


def small_run(folder: Path, candidates: list[Candidate] | None = None, log: list[dict] | None = None) -> Path:
    """Write the ledger, the record and the final log of a run of twelve steps, each with four candidates."""
    if candidates is None:
        texts = [f"What is {number % 9} plus {number // 9} ?" for number in range(48)]
        candidates = [
            rejected(n, n // 4, text, nearest=SEEDS[0], rouge_l=0.9) if n % 4 == 3 else candidate(n, n // 4, text)
            for n, text in enumerate(texts)
        ]
    ledger = Ledger(folder)
    for step in sorted({row.step for row in candidates}):
        ledger.write(step, [row for row in candidates if row.step == step])
    RunRecord("base", "seeds.jsonl", SEEDS, {"method": "paper"}, "serl-trl train", versions={"trl": "1.16"}).save(
        folder
    )
    write_state(folder, [logged(step) for step in range(1, 13)] if log is None else log)
    return folder


def write_state(folder: Path, log: list[dict]) -> None:
    """Write Trainer's state, which makes a run finished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(
        json.dumps({"global_step": log[-1]["step"] if log else 0, "log_history": log})
    )

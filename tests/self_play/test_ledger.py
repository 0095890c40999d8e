import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.ledger import Ledger


def candidate(number: int, **values) -> Candidate:
    return Candidate(number, step=0, round=1, instruction=f"Instruction {number} ü 七", parents=["a"], **values)


def test_rows_come_back_as_they_were(tmp_path):
    ledger = Ledger(tmp_path)
    rows = [candidate(0), candidate(1, fate="out_of_band", answers=["5", None], rewards=[1.0, 0.0], pass_rate=0.5)]
    ledger.write(0, rows)
    ledger.write(1, [candidate(2)])
    assert ledger.resume(next_batch=1) == rows
    dataset = load_dataset(
        "parquet", data_files=f"{tmp_path}/_ledger/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset["id"][:] == [0, 1]  # batch 1 was written after the checkpoint, and is forgotten


def test_a_full_disk_keeps_the_last_whole_file(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.write(0, [candidate(0)])

    def fail(table, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serl_trl.self_play.ledger.pq.write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        ledger.write(0, [candidate(0), candidate(1)])
    monkeypatch.undo()
    (path,) = (tmp_path / "_ledger").glob("*.parquet")
    assert pq.read_table(path).num_rows == 1


def test_other_processes_write_nothing(tmp_path):
    Ledger(tmp_path, is_writer=False).write(0, [candidate(0)])
    Ledger(tmp_path).write(0, [])
    assert not (tmp_path / "_ledger").exists()

import shutil

import pyarrow.parquet as pq
import pytest
from conftest import ledger_rows
from datasets import load_dataset

from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.ledger import Ledger


def candidate(number: int, **values) -> Candidate:
    return Candidate(number, step=0, round=1, instruction=f"Instruction {number} ü 七", parents=["a"], **values)


def write_batches(output_dir, first: int, last: int, latest: list[Candidate] | None = None) -> None:
    """Write batches as the loop does: three rows each, the third a surplus that the next batch trains."""
    ledger, latest = Ledger(output_dir), latest or []
    for batch in range(first, last):
        rows = [candidate(3 * batch + n, fate=fate) for n, fate in enumerate(("rejected", "trained", "surplus"))]
        ledger.write(batch, rows)
        for row in latest:
            row.fate = row.fate.replace("surplus", "trained")
        ledger.write(batch - 1, latest)
        latest = rows


def names(output_dir) -> list[str]:
    return sorted(path.name for path in (output_dir / "_ledger").iterdir())


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("long")
    write_batches(output_dir, 0, 205)
    return output_dir


def test_rows_come_back_as_they_were(tmp_path):
    ledger = Ledger(tmp_path)
    rows = [candidate(0), candidate(1, fate="out_of_band", answers=["5", None], rewards=[1.0, 0.0], pass_rate=0.5)]
    ledger.write(0, rows)
    ledger.write(1, [candidate(2)])
    assert ledger.admitted(1, 2) == [rows[1].instruction]
    assert ledger.resume(ledger, next_batch=1, next_id=2, surplus=[]) == rows
    dataset = load_dataset(
        "parquet", data_files=f"{tmp_path}/_ledger/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset["id"][:] == [0, 1]  # batch 1 was written after the checkpoint, and is forgotten


def test_a_hundred_batches_become_one_file(long_run, tmp_path):
    latest = [f"batch-{batch:06d}.parquet" for batch in range(200, 205)]
    assert names(long_run) == ["batch-000000-000099.parquet", "batch-000100-000199.parquet", *latest]
    rows = ledger_rows(long_run)
    assert [row["id"] for row in rows] == list(range(3 * 205))
    assert [row["fate"] for row in rows] == ["rejected", "trained", "trained"] * 204 + [
        "rejected",
        "trained",
        "surplus",
    ]
    assert pq.read_table(long_run / "_ledger").to_pylist() == rows
    dataset = load_dataset(
        "parquet", data_files=f"{long_run}/_ledger/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset["id"][:] == list(range(3 * 205))


# In small and merged files, at their edges, and with nothing to keep or to drop.
@pytest.mark.parametrize("batch", [0, 1, 2, 99, 100, 101, 102, 150, 199, 200, 201, 202, 205])
def test_a_resumed_ledger_ends_as_if_never_interrupted(long_run, tmp_path, batch):
    shutil.copytree(long_run / "_ledger", tmp_path / "_ledger")
    ledger = Ledger(tmp_path)
    surplus = [3 * batch - 1] if batch else []
    for _ in range(2):  # and once more, before it wrote anything
        latest = ledger.resume(ledger, batch, 3 * batch, surplus)
        assert [(row.id, row.fate) for row in latest if row.id in surplus] == [
            (number, "surplus") for number in surplus
        ]
        assert [row["id"] for row in ledger_rows(tmp_path)] == list(range(3 * batch))
    write_batches(tmp_path, batch, 205, latest)
    assert ledger_rows(tmp_path) == ledger_rows(long_run) and names(tmp_path) == names(long_run)


def test_an_interrupted_merge_doubles_no_row(long_run, tmp_path):
    write_batches(tmp_path, 0, 100)  # the small files are still there ...
    for name in ("batch-000000-000099.parquet", "batch-000100-000199.parquet"):
        shutil.copy(long_run / "_ledger" / name, tmp_path / "_ledger")  # ... beside the one that takes their place
    ledger = Ledger(tmp_path)
    assert ledger.admitted(200, 600) == Ledger(long_run).admitted(200, 600)
    ledger.resume(ledger, 200, 600, [])
    assert [row["id"] for row in ledger_rows(tmp_path)] == list(range(600))


def test_a_run_in_another_folder_takes_the_rows_along(long_run, tmp_path):
    before = {path.name: path.read_bytes() for path in (long_run / "_ledger").iterdir()}
    Ledger(tmp_path).resume(Ledger(long_run), 150, 450, [449])
    assert [row["id"] for row in ledger_rows(tmp_path)] == list(range(450))
    assert {path.name: path.read_bytes() for path in (long_run / "_ledger").iterdir()} == before


def remove(folder):
    (folder / "batch-000100-000199.parquet").unlink()
    (folder / "batch-000203.parquet").unlink()


def cut(folder):
    path = folder / "batch-000100-000199.parquet"
    path.write_bytes(path.read_bytes()[:1000])


def drop_column(folder):
    path = folder / "batch-000201.parquet"
    pq.write_table(pq.read_table(path).drop_columns("step"), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "303 are missing .300 to 599, 609 to 611., 0 are there twice. Bring back the files as they were"),
        (shutil.rmtree, "615 are missing .0 to 614."),
        # a copy under a name of ours, in place of two others
        (
            lambda folder: shutil.copy(folder / "batch-000202.parquet", folder / "batch-000200-000201.parquet"),
            "6 are missing .600 to 605., 3 are there twice",
        ),
        # a copy under another name
        (
            lambda folder: shutil.copy(folder / "batch-000202.parquet", folder / "batch-old.parquet"),
            "batch-old.parquet is no file of a ledger. Move it",
        ),
        (cut, "batch-000100-000199.parquet can't be read"),
        (lambda folder: (folder / "batch-000204.parquet").write_bytes(b""), "batch-000204.parquet can't be read"),
        (drop_column, "batch-000201.parquet is a ledger of another version"),
    ],
)
def test_a_damaged_ledger_is_named(long_run, tmp_path, damage, message):
    shutil.copytree(long_run / "_ledger", tmp_path / "_ledger")
    damage(tmp_path / "_ledger")
    with pytest.raises(ValueError, match=message):
        Ledger(tmp_path).admitted(205, 3 * 205)


def test_files_after_the_checkpoint_need_not_be_whole(long_run, tmp_path):
    shutil.copytree(long_run / "_ledger", tmp_path / "_ledger")
    (tmp_path / "_ledger" / "batch-000204.parquet").write_bytes(b"")  # what a loss of power may leave
    ledger = Ledger(tmp_path)
    assert len(ledger.admitted(204, 612)) == 408
    ledger.resume(ledger, 204, 612, [611])
    assert [row["id"] for row in ledger_rows(tmp_path)] == list(range(612))


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


def test_other_processes_write_nothing(long_run, tmp_path):
    reader = Ledger(tmp_path, is_writer=False)
    reader.write(0, [candidate(0)])
    assert reader.resume(Ledger(long_run), 100, 300, [299]) == []
    Ledger(tmp_path).write(0, [])
    assert not (tmp_path / "_ledger").exists()


def test_a_reader_finds_all_rows_while_files_are_merged(long_run):
    class Merging(Ledger):
        """A ledger whose first look at the folder was before the files were merged."""

        looks = 0

        def files(self):
            self.looks += 1
            found = super().files()
            return [found[0]._replace(path=self.folder / "batch-000000.parquet"), *found] if self.looks == 1 else found

    ledger = Merging(long_run)
    assert ledger.read(["id"])["id"].to_pylist() == list(range(3 * 205)) and ledger.looks == 3
    assert ledger.read().column_names[:2] == ["id", "step"]


def test_nothing_is_read_of_a_folder_without_a_ledger(tmp_path):
    assert Ledger(tmp_path).read(["id", "fate"]).to_pydict() == {"id": [], "fate": []}

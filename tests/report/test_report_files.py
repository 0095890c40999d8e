"""Which runs have a report, and what becomes of one that can't be written."""

import subprocess
import sys

import pytest
from small_run import SEEDS, candidate, logged, small_run, write_state

from serl_trl.cli import main
from serl_trl.report.page import REPORT_FILE, write_or_warn, write_report
from serl_trl.report.reading import read_runs


def test_the_command_writes_the_page_without_torch(tmp_path):
    small_run(tmp_path / "run")
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'trl', 'transformers']); from serl_trl.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "report", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.strip() == str(tmp_path / "run" / REPORT_FILE), result.stderr
    assert "What is 2 plus 3 ?" in (tmp_path / "run" / REPORT_FILE).read_text()


def test_a_run_that_goes_on_is_read_up_to_its_last_checkpoint(tmp_path):
    run = small_run(tmp_path)
    (run / "trainer_state.json").unlink()
    for step in (4, 12, 8):
        write_state(run / f"checkpoint-{step}", [logged(step)])
    (run / "checkpoint-16").mkdir()
    (run / "checkpoint-16" / "trainer_state.json").write_text('{"global_')  # it is being written
    (run / "_run.json").unlink()
    (found,) = read_runs(run)
    assert found.log == [logged(12)] and not found.is_finished and found.record is None
    assert found.seeds == sorted(SEEDS[:2])  # the few-shot examples of the first step
    assert "not finished" in write_report(run).read_text()


def test_iterations_are_in_order(tmp_path):
    for number in (10, 9, 1):
        small_run(tmp_path / f"iteration-{number}")
    small_run(tmp_path / "iteration-1-unfinished-1")
    assert [run.name.split("/")[-1] for run in read_runs(tmp_path)] == [f"iteration-{n}" for n in (1, 9, 10)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "There is no folder '.*run'. Name the output_dir of a run"),
        ({}, "has no _ledger"),
        ({"_ledger/other.txt": ""}, "is empty. Come back after the run's first batch"),
        ({"_ledger/batch-000000.parquet": "cut off"}, "batch-000000.parquet can't be read"),
        ({"_run.json": "{"}, "is no record of a run"),
    ],
)
def test_a_folder_without_a_whole_run_is_refused_in_a_sentence(tmp_path, monkeypatch, refused, files, message):
    run = tmp_path / "run"
    if files is not None:
        run.mkdir()
    for name, text in (files or {}).items():
        if name == "_run.json":
            small_run(run)
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["serl-trl", "report", str(run)])
    with refused(message):
        main()


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    run = small_run(tmp_path)
    (run / REPORT_FILE).mkdir()  # as a full disk does: the last step of writing fails
    assert write_or_warn(run) is None
    assert "There is no new report of" in caplog.text and "WriteError" in caplog.text and "MB free" in caplog.text
    assert not list(run.glob("*.unfinished"))


def test_a_long_run_has_a_page_below_three_megabytes(tmp_path):
    text = "How many apples does Anna have after she gives some of them to her friends & family ? " * 12
    rows = [candidate(n, n // 50, f"{n} {text}", answers=[f"{n}{'0' * 50}"] * 16) for n in range(2500)]
    log = [logged(step, kl=step / 1000) for step in range(1, 2001)]
    page = write_report(small_run(tmp_path, rows, log)).read_text()
    assert len(page.encode()) < 3e6 and page.count("<tr><td") > 2000 and "2000 of the 2500" in page

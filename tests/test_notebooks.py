"""The notebooks: run from top to bottom on the CPU as they are committed, with small outputs from such a run."""

import json
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import ROOT, ledger_rows
from run_notebooks import NOTEBOOKS, run_notebook
from safetensors.torch import load_file

from serl_trl import SeRLConfig
from serl_trl.evaluation.arguments import EvaluationArguments


DEFAULTS = {"quickstart": "ON_GPU = False", "inspect_run": "RUN = None"}


def cell(path: Path, name: str):
    """Return a cell by its name."""
    return next(cell for cell in nbformat.read(path, as_version=4).cells if cell.id == name)


def check_outputs(notebook) -> int:
    """Check that every code cell has run, in order and without an error; return the number of plots."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def plots(notebook) -> int:
    """Return how many plots the notebook's code shows."""
    return sum(cell.source.count("plt.show()") for cell in notebook.cells if cell.cell_type == "code")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A fresh folder in the place of the repository's own."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "notebooks").mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


@pytest.fixture(scope="module")
def quickstart(checkout) -> Path:
    """The folder that quickstart.ipynb has written."""
    notebook = run_notebook(ROOT / "notebooks" / "quickstart.ipynb", checkout / "notebooks")
    assert check_outputs(notebook) == plots(notebook) > 0
    (folder,) = (checkout / "outputs").glob("quickstart-*")
    return folder


def test_quickstart_trains_and_measures(quickstart):
    files = {path.name for path in (quickstart / "run").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "trainer_state.json"} <= files
    adapter = load_file(quickstart / "run" / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for name, weight in adapter.items() if "lora_B" in name)
    log = json.loads((quickstart / "run" / "trainer_state.json").read_text())["log_history"]
    trained = [row for row in ledger_rows(quickstart / "run") if row["fate"] == "trained"]
    assert len(trained) == 8 * sum("reward" in entry for entry in log)
    before, after = (json.loads((quickstart / name / "results.json").read_text()) for name in ("before", "after"))
    assert len(after["datasets"]["held_out"]["rows"]) == 150
    assert not {row["instruction"] for row in after["datasets"]["held_out"]["rows"]} & set(seeds(trained, before))
    assert after["comparison"]["datasets"]["held_out"]["pass@1"]["difference"] > 0.0


def seeds(trained: list[dict], before: dict) -> list[str]:
    """Return the few-shot examples of the first step: the seeds, since nothing is in the kept pool yet."""
    return [text for row in trained if row["step"] == 0 for text in row["parents"]]


def test_inspect_run_makes_a_run_and_shows_it(checkout):
    notebook = run_notebook(ROOT / "notebooks" / "inspect_run.ipynb", checkout / "notebooks")
    assert check_outputs(notebook) == plots(notebook) > 0
    (run,) = (checkout / "outputs").glob("inspect-*")
    rows = ledger_rows(run)
    shown = {cell.id: str(cell.get("outputs")) for cell in notebook.cells}
    assert f"{sum(row['fate'] == 'trained' for row in rows)} pseudo-labels trained on are right" in shown["labels"]
    assert str(len(rows)) in shown["funnel"]
    assert {row["reason"] for row in rows if row["fate"] == "rejected"} == {"cut_off", "too_similar"}
    assert "cut_off" in shown["rejected"] and "too_similar" in shown["rejected"]


def test_inspect_run_shows_a_given_run_and_trains_nothing(quickstart, checkout, tmp_path):
    text = (ROOT / "notebooks" / "inspect_run.ipynb").read_text()
    before = sorted((checkout / "outputs").iterdir())
    (tmp_path / "inspect.ipynb").write_text(text.replace("RUN = None", f"RUN = '../outputs/{quickstart.name}/run'", 1))
    notebook = run_notebook(tmp_path / "inspect.ipynb", checkout / "notebooks")
    check_outputs(notebook)
    assert "No true answer is known here" in str(notebook.cells)
    assert sorted((checkout / "outputs").iterdir()) == before


@pytest.mark.parametrize("capability", [(7, 5), (8, 6)], ids=["T4", "Ampere"])
def test_the_settings_for_a_gpu_are_known(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr("serl_trl.serl_config.is_vllm_available", lambda min_version: True)
    names = {"ON_GPU": True, "Path": Path}
    exec(cell(ROOT / "notebooks" / "quickstart.ipynb", "settings").source, names)
    EvaluationArguments(model="x", data=["y"], use_vllm=False, **names["sampling"])
    bfloat16 = capability >= (8, 0)
    assert (names["settings"].pop("bf16"), names["settings"].pop("fp16")) == (bfloat16, not bfloat16)
    config = SeRLConfig("unused", use_cpu=True, bf16=False, **names["settings"])  # mixed precision needs the GPU
    assert config.use_vllm is bfloat16
    assert config.gradient_accumulation_steps == config.steps_per_generation


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_have_small_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert check_outputs(notebook) == plots(notebook) > 0
    assert path.stat().st_size < 300_000
    assert cell(path, "switch").source.startswith(DEFAULTS[path.stem])
    assert "Traceback" not in path.read_text() and "/home/" not in path.read_text()
    assert f"notebooks/{path.name})" in cell(path, "title").source
    assert f"({path.name})" in (ROOT / "notebooks" / "README.md").read_text()

"""Run the notebooks from top to bottom and keep their outputs: `python scripts/run_notebooks.py`, before a commit."""

import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook as executed in `folder` by this Python on the CPU, without progress bars and warnings.

    Raises:
        CellExecutionError: if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    resources = {"metadata": {"path": str(folder)}}
    settings = {"timeout": 600, "startup_timeout": 300, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, resources=resources, **settings)
    client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # no version of this machine
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        start = time.monotonic()
        nbformat.write(run_notebook(path, path.parent), path)
        print(f"{path.relative_to(ROOT)}: {time.monotonic() - start:.0f} s, {path.stat().st_size // 1000} kB")

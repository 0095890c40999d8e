"""What is installed: the declared dependencies, and a wheel that needs no clone."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT
from packaging.requirements import Requirement


PACKAGE = ROOT / "src" / "serl_trl"
OPTIONAL = {"peft", "vllm"}  # imported where an extra is used
TRACKERS = {"trackio", "wandb"}  # where `report_to` names them; transformers asks for them
DISTRIBUTIONS = {"yaml": "pyyaml"}  # where it is not the import's name


def imported(path) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names


def test_what_is_imported_is_declared_and_the_other_way_round():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {Requirement(line).name.replace("-", "_").lower() for line in project["dependencies"]}
    names = set().union(*map(imported, PACKAGE.rglob("*.py")))
    assert {DISTRIBUTIONS.get(name, name) for name in names - OPTIONAL - TRACKERS} == declared
    assert OPTIONAL <= names & project["optional-dependencies"].keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel, offline, and unpack it where no clone is."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    zipfile.ZipFile(built).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_all_files(wheel):
    files = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.*") if path.suffix != ".pyc"}
    for name in ("recipes", "accelerate_configs"):
        shipped = {path.relative_to(ROOT) for path in (ROOT / name).glob("*.yaml")}
        assert shipped
        files |= shipped
    assert {path.relative_to(wheel / "serl_trl") for path in (wheel / "serl_trl").rglob("*.*")} == files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "nowhere"], "error: --recipe is 'nowhere'. Set it to one of demo, llama3.2_3b_8gpu, qwen2.5_0.5b,"),
        (["--accelerate_config", "nowhere"], "error: --accelerate_config is 'nowhere'. Set it to one of cpu, fsdp2,"),
    ],
)  # fmt: skip
def test_names_are_found_without_a_clone(wheel, tmp_path, arguments, sentence):
    command = [sys.executable, "-m", "serl_trl.cli", "train", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(wheel), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith(sentence)

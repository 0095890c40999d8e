"""`serl-trl check` as users start it."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, tiny_seeds

from serl_trl.check import measuring
from serl_trl.check.command import run


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Stand in a folder with a recipe and seeds, and return the arguments that name them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "CANDIDATES", 16)
    recipe = TINY_SETTINGS | {"model_name_or_path": str(TINY_MODEL), "log_completions": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with open(tmp_path / "mine.jsonl", "w") as file:
        file.writelines(json.dumps({"question": text}) + "\n" for text in tiny_seeds()["instruction"])
    yield ["--config", "recipe.yaml", "--seeds", "mine.jsonl", "--output_dir", "run"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.jsonl", "recipe.yaml"]


def test_a_good_start_is_a_go(arguments, capsys):
    run(arguments)
    assert capsys.readouterr().out.splitlines()[-1] == "go"


def test_a_start_that_is_not_ready_has_exit_code_1(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--max_completion_length", "3"])
    assert ended.value.code == 1 and capsys.readouterr().out.splitlines()[-1].startswith("don't: none of ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seeds", "missing.jsonl"], "There is no file 'missing.jsonl'"),
        (["--output_dir", "recipe.yaml"], "output_dir is 'recipe.yaml', and nothing can be written"),
        (["--resume_from_checkpoint", "true"], "resume_from_checkpoint is 'true', and a check looks at the start"),
        (["--max_completion_length", "510"], "max_completion_length is 510, and the longest prompt has"),
    ],
)
def test_bad_input_ends_as_in_training(arguments, refused, changes, message):
    with refused(message):
        run([*arguments, *changes])


def test_ctrl_c_ends_it_in_one_sentence(arguments, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "ask", interrupted)
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted. Nothing was trained or written."


def test_accelerate_launches_the_check(arguments, monkeypatch):
    def become(program, command):
        sys.exit(command)

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--accelerate_config", "cpu", "--num_processes", "2"])
    command = ended.value.code
    assert command[command.index("--num_processes") + 1] == "2"
    assert command[command.index("--module") + 1 :] == ["serl_trl.check.command", *arguments]


@pytest.mark.distributed
def test_two_processes_agree_and_one_of_them_speaks(arguments, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "serl_trl.cli", "check"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines().count("go") == 1 and result.stdout.splitlines()[-1] == "go"

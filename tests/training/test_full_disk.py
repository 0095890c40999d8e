"""A run whose disk is full says so, and leaves the checkpoint before."""

import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import TINY_MODEL, TINY_SETTINGS, ledger_rows, tiny_seeds
from safetensors.torch import save_file

from serl_trl.atomic_write import WriteError, atomic_write
from serl_trl.training.checkpoints import find_damage
from serl_trl.training.saving import naming_disk


SETTINGS = TINY_SETTINGS | {
    "model_name_or_path": str(TINY_MODEL),
    "max_steps": 20,
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_strategy": "no",
}
# A disk of its own, in a namespace of its own; what is on it is copied before it goes.
ON_SMALL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && "$@"; code=$?; cp -r run kept; exit $code'


def can_mount() -> bool:
    """Return whether a process may have a disk of its own: on Linux, where the system lets it."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs to mount a small disk")
def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_the_checkpoints_before(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SETTINGS))
    tiny_seeds().to_json(tmp_path / "questions.jsonl")
    (tmp_path / "run").mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_SMALL_DISK, "sh", "12m", "run"]
    command += [sys.executable, "-m", "serl_trl.train", "--config", "recipe.yaml", "--seeds", "questions.jsonl"]
    command += ["--output_dir", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr[-3000:]
    sentence = result.stderr.strip().splitlines()[-1]
    said = re.fullmatch(
        r"error: The checkpoint of step (\d) can't be saved \(.*\). The disk of .* \(mounted at .*/run\) has ([\d.]+) MB "
        r"free. A checkpoint takes more than ([\d.]+) MB. Make room. The run is at step \d, and its last checkpoint "
        r"is .*/run/checkpoint-(\d). To go on, add --resume_from_checkpoint true.*",
        sentence,
    )
    assert said, sentence
    step, free, needed, last = (float(number) for number in said.groups())
    assert step == last + 1 and free < needed
    kept = sorted(path.name for path in (tmp_path / "kept").glob("checkpoint-*"))
    assert kept == [f"checkpoint-{number}" for number in range(1, int(step))]
    assert all(find_damage(tmp_path / "kept" / name) is None for name in kept)
    assert ledger_rows(tmp_path / "kept") and not list((tmp_path / "kept").rglob("*.unfinished"))


def said_at_a_limit(write) -> str:
    """Return the message of the `WriteError` of a process that may write files of 1000 bytes only."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write()
        except WriteError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader) as pipe:
        return pipe.read()


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    def write():
        with atomic_write(tmp_path / "file.json") as path:
            path.write_text("x" * 2000)

    (tmp_path / "file.json").write_text("before")
    assert re.search(
        r"file.json can't be written \(.*File too large\). The disk of .* MB free.", said_at_a_limit(write)
    )
    assert (tmp_path / "file.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_errors_of_other_libraries_name_the_disk(tmp_path, save):
    tensors = {"weight": torch.zeros(1000)}

    def write():
        with naming_disk("The model", tmp_path):
            save(tensors, tmp_path / "file")

    assert re.search(r"The model can't be saved \(.*\). The disk of .* MB free.* Make room.", said_at_a_limit(write))


def test_an_error_of_another_process_is_none_of_the_disk(tmp_path):
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"), naming_disk("The model", tmp_path):
        raise RuntimeError("Connection closed by peer")  # as gloo says it where a process is gone

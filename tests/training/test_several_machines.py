"""Two machines on loopback: a launcher on each, one process each, one rendezvous."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, ledger_rows, tiny_seeds

from serl_trl.launch import free_port


pytestmark = pytest.mark.distributed


def train(folder: Path, outputs: list[Path], **settings) -> list[tuple[int, str]]:
    """Run docs/several_machines.md's command on each machine; return exit codes and what was printed."""
    settings = TINY_SETTINGS | {"model_name_or_path": str(TINY_MODEL)} | settings
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    tiny_seeds().to_json(folder / "seeds.jsonl")
    command = [sys.executable, "-m", "serl_trl.cli", "train", "--config", "settings.yaml", "--seeds", "seeds.jsonl"]
    command += ["--accelerate_config", str(ROOT / "accelerate_configs" / "multi_gpu.yaml"), "--mixed_precision", "no"]
    command += ["--num_machines", "2", "--num_processes", "2"]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    machines = [
        subprocess.Popen(
            [*command, "--machine_rank", str(rank), "--output_dir", str(output)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        texts = [machine.communicate(timeout=240)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    return [(machine.returncode, text) for machine, text in zip(machines, texts, strict=True)]


def test_two_machines_train_one_model_and_go_on(tmp_path):
    run = tmp_path / "run"
    results = train(tmp_path, [run, run], max_steps=2, save_strategy="steps", save_steps=1)
    assert [code for code, _ in results] == [0, 0], results[0][1][-2000:]
    results = train(
        tmp_path, [run, run], max_steps=3, save_strategy="steps", save_steps=1, resume_from_checkpoint=True
    )
    assert [code for code, _ in results] == [0, 0], results[0][1][-2000:]
    checkpoint = run / "checkpoint-3"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 3
    assert len(list(checkpoint.glob("serl_rollouts_*.tensors"))) == 2
    assert sum(row["fate"] == "trained" for row in ledger_rows(run)) == 3 * 4  # groups of a batch


@pytest.mark.vllm
def test_two_machines_sample_with_engines_of_their_own(tmp_path):
    settings = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 256, "max_steps": 1}
    run = tmp_path / "run"
    results = train(tmp_path, [run, run], **settings)
    assert [code for code, _ in results] == [0, 0], results[0][1][-2000:]
    assert sum(row["fate"] == "trained" for row in ledger_rows(run)) == 4


def test_machines_that_share_no_folder_are_refused(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    results = train(tmp_path, folders, max_steps=2)
    assert all(code != 0 for code, _ in results)
    assert all("Set it to a folder that all machines share." in text for _, text in results)
    assert not any(any(folder.iterdir()) for folder in folders)

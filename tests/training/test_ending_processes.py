"""How a training that runs in processes of its own ends: by a signal, with its launcher, on all processes together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, tiny_seeds
from test_ending import SCHEDULE


def start(output_dir, *launcher, **settings) -> subprocess.Popen:
    """Start `serl-trl train` on the tiny model, and wait until it has sampled a batch."""
    seeds = output_dir.parent / "seeds.jsonl"
    tiny_seeds().to_json(seeds)
    settings = (
        TINY_SETTINGS
        | {"save_strategy": "steps", "max_steps": 5000, "min_pass_rate": 0.4, "max_pass_rate": 1.0}
        | settings
    )
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, *launcher, "-m", "serl_trl.train", "--model_name_or_path", str(TINY_MODEL)]
    command += ["--seeds", str(seeds), "--output_dir", str(output_dir), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: any((output_dir / "_ledger").glob("batch-*.parquet")))
    return process


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_ctrl_c_leaves_no_traceback(tmp_path):
    process = start(tmp_path / "run", gradient_accumulation_steps=200)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    # -2: it came when Python was shutting down.
    assert process.returncode in (130, -2) and "Traceback" not in stderr, stderr[-2000:]
    assert "SIGINT: training ends after this step or round" in stderr and "Ended" in stdout


def test_a_dry_run_saves_its_model_and_has_an_exit_code_of_its_own(tmp_path):
    # The tiny world has 200 questions: soon there are no new ones.
    process = start(tmp_path / "run", max_rounds=4, max_steps=400, learning_rate=1e-6)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr[-2000:]
    assert "Some of its instructions:" in stdout  # the summary
    assert "since it no longer finds instructions to train on." in stdout.splitlines()[-1]
    assert "Raise instruction_temperature or diversity_threshold, or add seeds." in stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "README.md", "trainer_state.json", "_ledger"} <= names


def test_a_trainer_ends_with_its_launcher(tmp_path):
    process = start(tmp_path / "run", "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu")
    process.terminate()  # accelerate launch does not pass it on
    process.wait(timeout=30)
    wait_until(lambda: any((tmp_path / "run").glob("checkpoint-*/trainer_state.json")), 60)


def run_two(output_dir, **settings) -> list[str]:
    """Return the command that trains with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*command, str(ROOT / "tests" / "run_tiny.py"), str(output_dir), json.dumps(SCHEDULE | settings)]


@pytest.mark.distributed
def test_an_engine_that_fails_on_one_process_ends_both_with_a_checkpoint(tmp_path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = run_two(tmp_path, fails_on=1)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode != 0 and time.time() - (tmp_path / "failed").stat().st_mtime < 60
    assert "EngineError: process 1: RuntimeError: the engine broke" in result.stderr
    assert "its last checkpoint is" in result.stderr and len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.distributed
def test_a_signal_ends_both_processes_at_the_same_step(tmp_path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = run_two(tmp_path, max_steps=5000)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: (tmp_path / "_ledger" / "batch-000001.parquet").exists())
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert f"Ended by SIGTERM. The run is at step {checkpoint.name.split('-')[1]}," in stdout, stderr[-2000:]
    assert len(list(checkpoint.glob("serl_rollouts_*.tensors"))) == 2

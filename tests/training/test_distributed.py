"""Two real processes on the CPU: the same branches, one verdict for each group, and groups that straddle them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_advantages import expected


pytestmark = pytest.mark.distributed

# Three groups of four completions over two processes: six each, so that the second group straddles them.
SETTINGS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "generation_batch_size": 12,
    "num_iterations": 2,
    "max_steps": 9,
    "save_strategy": "steps",
    "save_steps": 3,
    "min_pass_rate": 0.4,
    "max_pass_rate": 1.0,
    "advantage_estimator": "reinforce_plus_plus",
    "beta": 0.1,
}


def run(output_dir: Path, checkpoint: Path | None = None) -> list[dict]:
    """Train with two processes and return the report of each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "tests" / "run_tiny.py"), str(output_dir), json.dumps(SETTINGS)]
    command += [str(checkpoint)] if checkpoint else []
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((output_dir / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("two_processes")
    return output_dir, run(output_dir)


def test_both_processes_take_the_same_way(whole_run):
    first, second = whole_run[1]
    assert first["processes"] == second["processes"] == 2
    assert first["batches"] == second["batches"] and len(first["batches"]) == 2
    assert first["admitted"] == second["admitted"]
    assert len(set(first["admitted"])) == len(first["admitted"])  # no candidate of one rank repeats the other's
    assert first["weights"] == second["weights"]


def test_each_group_is_judged_by_one_process(whole_run):
    first, second = whole_run[1]
    assert first["groups"] == second["groups"]
    for groups, own, others in zip(first["groups"], first["judged"], second["judged"], strict=True):
        assert len(own) + len(others) == len(groups)
        assert sorted(own + others) == sorted(groups)


def test_a_group_straddles_the_processes(whole_run):
    first, second = whole_run[1]
    for own, others in zip(first["carried"], second["carried"], strict=True):
        assert len(own) == len(others) == 6
        assert own[-2:] == others[:2] and len(set(own[-2:])) == 1
        assert len(set(own + others)) == 3


def test_advantages_are_whitened_over_both_processes(whole_run):
    for parts in zip(*(report["estimated"] for report in whole_run[1]), strict=True):
        longest = max(len(part["mask"][0]) for part in parts)  # each process pads its own rows
        joined = {
            name: np.concatenate(
                [np.pad(np.array(part[name], float), ((0, 0), (0, longest - len(part[name][0])))) for part in parts]
            )
            for name in ("mask", "logps", "ref_logps", "advantages")
        }
        assert parts[0]["rewards"] == parts[1]["rewards"] and len(parts[0]["rewards"]) == 12
        batch = joined | {"rewards": np.array(parts[0]["rewards"])}
        wanted = expected("reinforce_plus_plus", batch, beta=0.1, generations=4)
        np.testing.assert_allclose(joined["advantages"], wanted, atol=1e-4)


def test_two_processes_resume_in_mid_cycle_with_the_same_bits(whole_run, tmp_path):
    output_dir, reports = whole_run
    shutil.copytree(output_dir / "checkpoint-3", tmp_path / "checkpoint-3")
    shutil.copytree(output_dir / "_ledger", tmp_path / "_ledger")
    resumed = run(tmp_path, tmp_path / "checkpoint-3")
    assert [report["weights"] for report in resumed] == [report["weights"] for report in reports]
    files = sorted(path.name for path in (output_dir / "_ledger").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "_ledger").iterdir())
    for name in files:
        assert (output_dir / "_ledger" / name).read_bytes() == (tmp_path / "_ledger" / name).read_bytes()

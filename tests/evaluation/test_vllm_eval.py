"""`serl-trl eval` with a real vLLM, in a process of its own, since a process can hold only one engine."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL
from test_eval import command, one_thread, settings, small  # noqa: F401
from transformers import AutoModelForCausalLM


# Where `make test` can install vLLM, a missing one is a failure, not a skip.
HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not HAS_WHEEL, reason="there is no vLLM for this machine")]

# Evaluate, cut the samples as a kill would, and evaluate again with the same engine, as starting it takes most of the time.
TWICE = """
import sys
from pathlib import Path
from serl_trl.engine import standalone
from serl_trl.evaluation import command

loaded = []
load_vllm = standalone.load_vllm
standalone.load_vllm = lambda *settings: loaded[0] if loaded else loaded.append(load_vllm(*settings)) or loaded[0]
command.run(sys.argv[2:])
folder = Path(sys.argv[1])
(folder / "results.json").rename(folder / "first.json")
lines = (folder / "sums.jsonl").read_text().splitlines(keepends=True)
(folder / "sums.jsonl").write_text("".join(lines[:11]) + lines[11][:20])
command.run(sys.argv[2:])
"""


def result_of(path: Path) -> dict:
    return json.loads(path.read_text())["datasets"]["sums"]


def test_vllm_agrees_with_transformers_and_resumes(tmp_path):
    from peft import LoraConfig, get_peft_model

    # An adapter that changes what the model says: it must reach both engines.
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_peft_model(AutoModelForCausalLM.from_pretrained(TINY_MODEL), lora).save_pretrained(tmp_path / "adapter")
    values = settings(tmp_path, model=str(tmp_path / "adapter"), num_samples=16)
    adapted = small(tmp_path, **values | {"output_dir": str(tmp_path / "transformers")})["datasets"]["sums"]
    base = small(tmp_path, **values | {"model": str(TINY_MODEL), "output_dir": str(tmp_path / "base")})

    arguments = [str(tmp_path / "eval"), *command(values | {"use_vllm": True})[2:]]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", TWICE, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, resumed = result_of(tmp_path / "eval" / "first.json"), result_of(tmp_path / "eval" / "results.json")
    for metric in ("pass@1", "truncated"):
        assert abs(first["metrics"][metric]["value"] - adapted["metrics"][metric]["value"]) < 0.08, metric
    # ... while the model without the adapter is another.
    assert abs(base["datasets"]["sums"]["metrics"]["pass@1"]["value"] - adapted["metrics"]["pass@1"]["value"]) > 0.16
    assert any(len(set(row["answers"])) > 1 for row in first["rows"])
    assert resumed == first

    # Two replicas draw what one engine does.
    two = values | {"use_vllm": True, "vllm_data_parallel_size": 2, "output_dir": str(tmp_path / "two")}
    result = subprocess.run(command(two), env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result_of(tmp_path / "two" / "results.json") == first

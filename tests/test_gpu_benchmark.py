"""benchmarks/gpu.py on the CPU with the tiny model, and what needs a GPU with made-up numbers."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_MODEL


sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_parts import recorder  # noqa: E402
from gpu_parts.learning import curve, labels  # noqa: E402
from gpu_parts.lora import changed_share  # noqa: E402
from gpu_parts.report import memory, report  # noqa: E402
from make_tiny_model import PAIRS, question  # noqa: E402


GIB = 2**30


def write_questions(path: Path) -> Path:
    """Write questions of the tiny world with their answers."""
    rows = []
    for first, sign, second in random.Random(1).sample(PAIRS, 50):
        answer = first + second if sign == "plus" else first - second
        rows.append({"question": question(first, sign, second), "answer": str(answer)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(output: Path, seeds: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--model", str(TINY_MODEL), "--seeds", str(seeds)]
    command += ["--settings", str(ROOT / "benchmarks" / "gpu_tiny.yaml"), "--output", str(output), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.vllm
@pytest.mark.skipif(sys.platform != "linux", reason="there is no vLLM for this machine")
def test_a_part_runs_once_and_its_tables_are_written(tmp_path):
    seeds = write_questions(tmp_path / "seeds.jsonl")
    options = ["--steps", "2", "--parts", "lora"]
    first = run(tmp_path / "out", seeds, *options)
    assert first.returncode == 0, (tmp_path / "out" / "lora.log").read_text()
    tables = (tmp_path / "out" / "gpu.md").read_text()
    assert "not measured on a CPU" in tables and "seconds of a step" in tables
    syncs = json.loads((tmp_path / "out" / "lora.json").read_text())["syncs"]
    assert syncs["changed after training"] == syncs["serl-trl"]["changed"] == 0.0 < syncs["TRL"]["changed"]
    assert "lora: done before" in run(tmp_path / "out", seeds, *options).stdout
    other = run(tmp_path / "out", seeds, "--steps", "3", "--parts", "lora")
    assert other.returncode == 1 and "another steps" in other.stderr


def test_seconds_of_a_stage_leave_out_those_within_it(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: float(next(clock)))
    found = recorder.Recorder()
    inner = found.timed("sync", lambda: None)  # from 1 to 2
    found.timed("vLLM", inner)()  # from 0 to 3
    assert found.seconds == {"sync": 1.0, "vLLM": 2.0} and found.counts == {"sync calls": 1, "vLLM calls": 1}


def test_the_device_is_watched_while_a_block_runs(monkeypatch):
    used = {"bytes": 3}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 - used["bytes"], 10))
    with recorder.device_memory() as found:
        for used["bytes"] in (9, 5):
            recorder.time.sleep(0.3)
    assert found == {"before": 3, "peak": 9}


def made_up_part(**memory) -> dict:
    """Return what a part measures on a GPU: four steps of 10 seconds, the first of them slow."""
    steps = [
        {
            "step": step,
            "seconds": 60.0 if step == 1 else 10.0,
            "in use": 9 * GIB,
            "stages": {"vLLM": 5.0, "sync": 1.0, "reward": 0.5},
            "counts": {"sync calls": 1, "sampled tokens": 1000, "trained tokens": 400},
            "log": {
                "time/self_instruction": 3.0,
                "time/sampling": 4.0,
                "time/vote": 0.5,
                "reward": 0.5,
                "self_rewarding/stale_groups": float(step > 2),
                "sampling/sampling_logp_difference/mean": 0.01 * step,
                "sampling/sampling_logp_difference/max": 0.1 * step,
            },
        }
        for step in (1, 2, 3, 4)
    ]
    return {
        "steps": steps,
        "planned": {"weights": 2 * GIB, "vLLM": 6 * GIB, "sampling": 0},
        "memory": memory,
        "workload": {"per_device_train_batch_size": 16, "prompt_length": 100, "completion_length": 512},
        "machine": {"device": "A GPU", "memory": 24 * GIB, "cuda": "13.0", "versions": {"torch": "2.13.0"}},
    }


def test_the_tables_of_a_gpu():
    part = made_up_part(before=1 * GIB, started=8 * GIB, allocated=10 * GIB, reserved=11 * GIB, peak=13 * GIB)
    assert memory(part) == {
        "planned: weights": "2.00",
        "planned: vLLM": "6.00",
        "planned": "8.00",
        "torch, when loaded": "8.00",
        "torch, peak": "10.00",
        "torch, peak reserved": "11.00",
        "device, peak": "12.00",
        "device, at the end of a step": "8.00",
        "planned / torch's peak": "0.80",
        "batch, tokens of prompt + completion": "16 of 100 + 512",
    }
    text = report({"steps": part, "grpo": part}, {"model": "a/model"}, "python benchmarks/gpu.py", "abc1234")
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.split("\n") if line[:1] == "|"]
    cells = {name: values for name, *values in cells}
    assert "A GPU, 24.0 GiB, CUDA 13.0; torch 2.13.0; commit abc1234; a/model." in text
    assert cells["seconds of a step"] == ["10.00", "10.00"]  # without the slow first one
    assert cells["self-instruction"] == ["3.00", "-"]
    assert cells["sampling answers"] == ["4.00", "6.00"]  # of GRPOTrainer vLLM and sync
    assert cells["log-probabilities and update"] == ["2.00", "3.00"]
    assert cells["tokens sampled a second of vLLM"] == ["200", "200"]
    assert cells["log-probability difference, largest"] == ["0.2", "0.2"]  # of the steps without stale groups


def test_bits_of_the_base_are_compared():
    layer = torch.nn.Module()
    layer.base_layer = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    before = [layer.base_layer.weight.detach().clone()]
    assert changed_share(before, layer) == 0.0
    layer.base_layer.weight.data[0, 0] += 1
    assert changed_share(before, layer) == 0.25


def test_curve_and_labels():
    keys = {"reward": 0.5, "self_rewarding/stale_groups": 0.0}
    log = [{"step": step, **keys, "sampling/sampling_logp_difference/mean": 0.1} for step in range(1, 12)]
    log[1] |= {"self_rewarding/stale_groups": 1.0, "sampling/sampling_logp_difference/mean": 9.0}
    rows = curve(log)
    assert [row["steps"] for row in rows] == ["1-10", "11-11"]
    assert rows[0]["log-probability difference"] == pytest.approx(0.1) and rows[0]["pass rate"] is None
    row = {"fate": "trained", "instruction": "what is one ?", "pseudo_label": "1", "pass_rate": 0.5}
    ledger = [row | {"trained_step": 0}, row | {"trained_step": 0, "pseudo_label": "2"}, row | {"trained_step": 8}]
    first, last = labels([*ledger, {"fate": "surplus"}], 9)
    assert (first["trained"], first["different instructions"], last["third"]) == (2, 0.5, 3)
    assert first["most common pseudo-label"] == 0.5

"""The accelerate configurations, started as users start them, with two processes on the CPU."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT, tiny_config, tiny_seeds
from run_tiny import make_trainer, whole_weights
from safetensors.torch import load_file

from serl_trl import SeRLTrainer


CONFIGS = {path.stem: path for path in (ROOT / "accelerate_configs").glob("*.yaml")}
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)

# Two steps of four groups of four completions, the same ones whatever the processes, with a reference model.
SETTINGS = {
    "same_completions": True,
    "instruction_source": "seeds",
    "generation_batch_size": 16,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "beta": 0.04,
    "adam_epsilon": 1e-4,  # else the rounding of a gradient near 0 becomes a step of full length
}


@pytest.mark.parametrize(
    ("name", "distributed_type", "settings"),
    [
        ("cpu", "NO", {"use_cpu": True, "num_processes": 1, "mixed_precision": "no"}),
        ("single_gpu", "NO", {"use_cpu": False, "num_processes": 1}),
        ("multi_gpu", "MULTI_GPU", {"num_processes": 8}),
        ("zero2", "DEEPSPEED", {"deepspeed_config": {"zero_stage": 2}}),
        ("zero3", "DEEPSPEED", {"deepspeed_config": {"zero_stage": 3, "zero3_save_16bit_model": True}}),
        ("fsdp2", "FSDP", {"fsdp_config": {"fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}}),
    ],
)
def test_accelerate_reads_each_configuration(name, distributed_type, settings):
    config = load_config_from_file(str(CONFIGS[name]))  # refuses unknown keys
    assert config.distributed_type == distributed_type and config.num_machines == 1
    for key, value in settings.items():
        found = getattr(config, key)
        assert (value.items() <= found.items()) if isinstance(value, dict) else (found == value), key


def launch(name: str, output_dir: Path, checkpoint: str = "", **settings) -> subprocess.CompletedProcess:
    """Start two processes on the CPU with one of the configurations."""
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", "--config_file", str(CONFIGS[name])]
    command += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    command += [str(ROOT / "tests" / "run_tiny.py"), str(output_dir), json.dumps(settings), *checkpoint.split()]
    environment = {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    if name.startswith("zero"):
        del environment["ACCELERATE_USE_CPU"]  # accelerate would pass DeepSpeed over
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Return the weights of the same batches trained in one process: of the whole model, and with LoRA."""
    weights = {}
    for lora in (False, True):
        trainer = make_trainer(tmp_path_factory.mktemp("one"), lora=lora, gradient_accumulation_steps=4, **SETTINGS)
        before = whole_weights(trainer)
        trainer.train()
        weights[lora] = whole_weights(trainer)
        moved = [name for name in before if not torch.equal(before[name], weights[lora][name])]
        assert moved and all("lora_" in name for name in moved) == lora
    return weights


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "lora", "wrapped"),
    [
        ("multi_gpu", False, "DistributedDataParallel"),
        ("multi_gpu", True, "DistributedDataParallel"),
        ("fsdp2", False, "FSDPLlamaForCausalLM"),
        ("fsdp2", True, "FSDPPeftModelForCausalLM"),
        pytest.param("zero2", False, "DeepSpeedEngine", marks=NEEDS_DEEPSPEED),
        pytest.param("zero2", True, "DeepSpeedEngine", marks=NEEDS_DEEPSPEED),
        pytest.param("zero3", False, "DeepSpeedEngine", marks=NEEDS_DEEPSPEED),
        pytest.param("zero3", True, "DeepSpeedEngine", marks=NEEDS_DEEPSPEED),
    ],
)
def test_two_processes_train_what_one_does(name, lora, wrapped, one_process, tmp_path):
    watched = {"evidence_seeds": 16, "sentinel_checks": 1}  # which saves good weights, and changes nothing
    result = launch(name, tmp_path, lora=lora, gradient_accumulation_steps=2, **SETTINGS | watched)
    assert result.returncode == 0, result.stderr[-3000:]
    reports = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [(report["processes"], report["wrapped"]) for report in reports] == [(2, wrapped)] * 2
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    assert len(first) == len(second) == len(one_process[lora])
    for key, expected in one_process[lora].items():
        assert torch.equal(first[key], second[key]), key
        # The steps are about 1e-3: equal to a thousandth of one.
        torch.testing.assert_close(first[key], expected, rtol=0, atol=1e-6, msg=key)


@pytest.mark.distributed
@pytest.mark.parametrize("lora", [False, True])
def test_fsdp2_resumes_with_the_same_bits(tmp_path, lora):
    settings = SETTINGS | {
        "lora": lora,
        "method": "trusted",  # with slow weights, each process those of its shard, and checks of the seeds
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    weights = []
    for name, checkpoint in (("whole", ""), ("resumed", str(tmp_path / "resumed" / "checkpoint-1"))):
        if checkpoint:
            shutil.copytree(tmp_path / "whole" / "checkpoint-1", checkpoint)
            shutil.copytree(tmp_path / "whole" / "_ledger", tmp_path / "resumed" / "_ledger")
        result = launch("fsdp2", tmp_path / name, checkpoint, **settings)
        assert result.returncode == 0, result.stderr[-3000:]
        weights.append(load_file(tmp_path / name / "rank-1.safetensors"))
    whole, resumed = weights
    assert whole and all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.distributed
@pytest.mark.parametrize("lora", [False, True])
def test_fsdp2_goes_back_to_good_weights(tmp_path, lora):
    settings = SETTINGS | {"lora": lora, "gradient_accumulation_steps": 2, "evidence_seeds": 16, "sentinel_checks": 1}
    breaks = {"learning_rate": 1e30, "warmup_steps": 0, "lr_scheduler_type": "constant", "max_steps": 32}
    result = launch("fsdp2", tmp_path, **settings | breaks)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        "no longer finite numbers. It is the second time: training ends with the weights of step 0." in result.stdout
    )
    start = whole_weights(make_trainer(tmp_path / "other", **settings))
    back = load_file(tmp_path / "rank-1.safetensors")
    same = [torch.equal(back[key], start[key]) for key in back if "lora_A" not in key]  # which is drawn at random
    assert same and all(same)


# As `accelerate launch` sets them.
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ON_FIRST_PROCESS = FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
PARALLEL = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}
NOWHERE = "/no/such/model"
NOT_REFUSED = "The model '/no/such/model' is neither a folder here nor"


@pytest.mark.parametrize(
    ("environment", "model", "beta", "lora", "message"),
    [
        (ON_FIRST_PROCESS, NOWHERE, 0.001, False, "Set fsdp_cpu_ram_efficient_loading to false, or beta to 0"),
        (ON_FIRST_PROCESS, NOWHERE, 0.0, False, NOT_REFUSED),
        (ON_FIRST_PROCESS, NOWHERE, 0.001, True, NOT_REFUSED),  # the reference is the model without its adapter
        (FSDP2, NOWHERE, 0.001, False, NOT_REFUSED),
        (PARALLEL | {"PARALLELISM_CONFIG_TP_SIZE": "2"}, NOWHERE, 0.0, False, "tp_size is 2"),
        (PARALLEL | {"PARALLELISM_CONFIG_CP_SIZE": "4"}, NOWHERE, 0.0, False, "cp_size is 4"),
        (PARALLEL | {"PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"}, NOWHERE, 0.0, False, NOT_REFUSED),
        ({}, SimpleNamespace(tp_size=2), 0.0, False, "tp_size is 2"),
    ],
)
def test_what_would_train_something_else_is_refused(environment, model, beta, lora, message, tmp_path, monkeypatch):
    from peft import LoraConfig

    config = tiny_config(tmp_path / "run", beta=beta)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        SeRLTrainer(model, config, tiny_seeds(), peft_config=LoraConfig() if lora else None)

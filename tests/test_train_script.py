"""Training as users start it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, tiny_seeds
from datasets import load_dataset
from huggingface_hub import ModelCard

from serl_trl.training.checkpoints import last_checkpoint


TINY = TINY_SETTINGS | {"model_name_or_path": str(TINY_MODEL), "max_steps": 2, "disable_tqdm": False}


def run(*command, **environment) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_launched_command_trains_from_a_file_of_questions(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    with open(tmp_path / "questions.jsonl", "w") as file:
        file.writelines(json.dumps({"question": text}) + "\n" for text in tiny_seeds()["instruction"])
    launch = [sys.executable, "-m", "serl_trl.cli", "train", "--accelerate_config", "cpu", "--num_processes", "1"]
    arguments = ["--config", str(tmp_path / "recipe.yaml"), "--seeds", str(tmp_path / "questions.jsonl")]
    with open(tmp_path / "labelled.jsonl", "w") as file:
        file.writelines(json.dumps({"question": f"what is 2 plus {n} ?", "answer": 2 + n}) + "\n" for n in range(4))
    arguments += ["--eval_data", str(tmp_path / "labelled.jsonl"), "--eval_steps", "2"]
    arguments += ["--output_dir", str(tmp_path / "run"), "--max_steps", "3"]  # the command line has the last word
    result = run(*launch, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Steps           3, from 50 seeds" in result.stdout
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"```bash\nserl-trl train --config {tmp_path}/recipe.yaml --seeds" in card
    for part in ("rejected", "Pass rate", "Reward", "Tokens", "Seconds", "Some of its instructions"):
        assert part in result.stdout
    assert {"model.safetensors", "trainer_state.json", "README.md"} <= {p.name for p in (tmp_path / "run").iterdir()}
    # Accuracy at the start, after two steps and at the end; the last is in the card.
    accuracies = result.stdout.split("pass@1 ")[1].splitlines()[0].split()
    assert len(accuracies) == 3
    results = ModelCard.load(tmp_path / "run" / "README.md").data.eval_results
    (shown,) = [result for result in results if (result.dataset_name, result.metric_type) == ("labelled", "pass@1")]
    assert shown.metric_args["num_samples"] == 4 and shown.metric_value == pytest.approx(
        float(accuracies[-1]), abs=1e-3
    )
    ledger = load_dataset("parquet", data_files=f"{tmp_path}/run/_ledger/*.parquet", cache_dir=str(tmp_path / "cache"))
    assert "trained" in ledger["train"]["fate"]


def test_ctrl_c_keeps_the_ledger_and_says_how_to_go_on(tmp_path):
    saving = {"max_steps": 5000, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY | saving))
    tiny_seeds().to_json(tmp_path / "questions.jsonl")
    command = [sys.executable, "-m", "serl_trl.train", "--config", str(tmp_path / "recipe.yaml")]
    command += ["--seeds", str(tmp_path / "questions.jsonl"), "--output_dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "_ledger" / "batch-000002.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr[-2000:]
    assert f"and its last checkpoint is {last_checkpoint(tmp_path / 'run')}. To go on, add --resume" in stdout
    files = sorted((tmp_path / "run" / "_ledger").glob("*.parquet"))
    assert len(files) >= 3 and all(pq.read_table(path).num_rows > 0 for path in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "missing.jsonl"], "error: There is no file 'missing.jsonl'"),
        (
            ["--seeds", "x.jsonl", "--resume_from_checkpoint", "nowhere"],
            "error: There is no whole checkpoint of self-play in 'nowhere'",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence_and_writes_nothing(tmp_path, arguments, message):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(tmp_path / "recipe.yaml"), *arguments]
    result = run(*command, "--output_dir", str(tmp_path / "run"))
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith(message), result.stderr[-2000:]
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_hold_known_settings_only(recipe, tmp_path, monkeypatch):
    from serl_trl.train import make_parser

    monkeypatch.setattr("serl_trl.serl_config.is_vllm_available", lambda min_version: True)
    arguments = ["--config", str(recipe), "--seeds", "x.jsonl", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    _, training_args, model_args = make_parser().parse_args_and_config(arguments)
    assert training_args.max_steps > 0
    # One optimizer step for each generation batch: everything is trained on by the weights that sampled it.
    assert training_args.gradient_accumulation_steps == training_args.steps_per_generation
    if recipe.stem != "demo":
        assert training_args.bf16 != training_args.fp16 and model_args.model_name_or_path

"""The part `learning` of benchmarks/gpu.py: does the real model get better, and what did it train on?"""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import yaml


HELD_OUT, SAMPLES = 300, 8
SHARED = (  # settings of training that `serl-trl eval` has too
    "temperature",
    "max_completion_length",
    "prompt_template",
    "answer_format",
    "vllm_gpu_memory_utilization",
)
DIFFERENCE = "sampling/sampling_logp_difference/mean"
CURVE = {
    "reward": "reward",
    "pass rate": "self_rewarding/pass_rate",
    "in the band": "self_rewarding/in_band_ratio",
    "unparsed": "self_rewarding/unparsed_ratio",
    "truncated": "self_rewarding/truncated_ratio",
    "tokens of a completion": "completions/mean_length",
    "KL": "kl",
    "stale groups": "self_rewarding/stale_groups",
    "log-probability difference": DIFFERENCE,
    "seconds": "step_time",
}


def learning(arguments: dict, settings: dict) -> dict:
    """Measure the model on held-out questions, train it by self-play, and measure it again."""
    folder = Path(arguments["output"]) / "learning"
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings | {"max_steps": arguments["learning_steps"]}
    settings |= {"save_strategy": "steps", "save_steps": 50, "save_total_limit": 1}  # an interrupted run goes on
    held_out = folder / "held_out.jsonl"
    held_out.write_text("".join(some_lines(Path(arguments["held_out"]), HELD_OUT)), encoding="utf-8")
    before = evaluate(arguments["model"], held_out, folder / "eval_before", settings)
    train(arguments, settings, folder)
    after = evaluate(str(folder / "model"), held_out, folder / "eval_after", settings, folder / "eval_before")
    log = json.loads((folder / "model" / "trainer_state.json").read_text())["log_history"]
    ledger = [row for path in sorted(folder.glob("model/_ledger/*")) for row in pq.read_table(path).to_pylist()]
    return {
        "before": metrics(before),
        "after": metrics(after),
        "difference": next(iter(after["comparison"]["datasets"].values())),
        "curve": curve([entry for entry in log if "step_time" in entry]),
        "labels": labels(ledger, settings["max_steps"]),
        "fates": Counter(row["reason"] or row["fate"] for row in ledger),
    }


def some_lines(path: Path, count: int) -> list[str]:
    """Return lines of a file, always the same ones; all of them if there are no more."""
    lines = [line + "\n" for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return random.Random(0).sample(lines, min(count, len(lines)))


def serl_trl(*arguments: str) -> None:
    """Run a command of serl-trl as a user would."""
    print("$ serl-trl " + " ".join(arguments), flush=True)
    subprocess.run([str(Path(sys.executable).parent / "serl-trl"), *arguments], check=True)


def evaluate(model: str, data: Path, output: Path, settings: dict, baseline: Path | None = None) -> dict:
    """Measure a model as `serl-trl eval` does, by training's own settings; return its results."""
    options = {name: settings[name] for name in SHARED if name in settings}
    if baseline:
        options["compare"] = baseline / "results.json"
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    arguments += ["--data", str(data), "--num_samples", str(SAMPLES), "--output_dir", str(output)]
    serl_trl("eval", "--model", model, *arguments)
    return json.loads((output / "results.json").read_text())


def metrics(results: dict) -> dict:
    """Return the metrics of the only dataset."""
    (dataset,) = results["datasets"].values()
    return dataset["metrics"]


def train(arguments: dict, settings: dict, folder: Path) -> None:
    """Train by self-play, from where an interrupted run stopped; do nothing if it is finished."""
    model, recipe = folder / "model", folder / "recipe.yaml"
    if (model / "trainer_state.json").exists():
        return
    recipe.write_text(yaml.safe_dump(settings | {"model_name_or_path": arguments["model"]}))
    options = ["--config", str(recipe), "--seeds", arguments["seeds"], "--output_dir", str(model)]
    if any(model.glob("checkpoint-*")):
        options += ["--resume_from_checkpoint", "true"]
    else:
        shutil.rmtree(model, ignore_errors=True)  # what an interrupted run left without a checkpoint
    serl_trl("train", *options)


def curve(log: list[dict]) -> list[dict]:
    """Return the means of ten steps each; a batch of nothing but surplus logs no rates.

    Log-probability differences are of steps without stale groups, which older weights sampled.
    """
    rows = []
    for start in range(0, len(log), 10):
        entries = log[start : start + 10]
        row = {"steps": f"{entries[0]['step']}-{entries[-1]['step']}"}
        for name, key in CURVE.items():
            used = [entry for entry in entries if key != DIFFERENCE or not entry["self_rewarding/stale_groups"]]
            values = [entry[key] for entry in used if entry.get(key) is not None]
            row[name] = sum(values) / len(values) if values else None
        rows.append(row)
    return rows


def labels(ledger: list[dict], steps: int) -> list[dict]:
    """Return what was trained on, by thirds of the run: how many, how alike, and how the votes went."""
    rows = []
    for third in range(3):
        trained = [row for row in ledger if row["fate"] == "trained" and row["trained_step"] * 3 // steps == third]
        if not trained:
            continue
        most_common = Counter(row["pseudo_label"] for row in trained).most_common(1)[0][1]
        rows.append(
            {
                "third": third + 1,
                "trained": len(trained),
                "different instructions": len({row["instruction"] for row in trained}) / len(trained),
                "words of an instruction": sum(len(row["instruction"].split()) for row in trained) / len(trained),
                "pass rate": sum(row["pass_rate"] for row in trained) / len(trained),
                "most common pseudo-label": most_common / len(trained),
            }
        )
    return rows

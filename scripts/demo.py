"""`make demo`: self-play without a GPU and without the Hub, twice.

1. A model of 0.3 million parameters gets better at sums from 50 of them, without an answer: a minute, before and after.
2. The loop on a real language model, SmolLM2-135M-Instruct with vLLM: some minutes, too few to make it better.
"""

import json
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
SEED = 3  # of the first part: that of the median gain of five (benchmarks/demo_seeds.py)


def be_quiet() -> None:
    """Let other libraries keep to themselves what no reader of a demo can use."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",  # everything is here
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore",  # of vLLM's processes, too
    }
    warnings.simplefilter("ignore")
    for name in ("bitsandbytes", "torch", "torchao", "root"):  # a kernel that only QLoRA would use is missing
        logging.getLogger(name).setLevel(logging.ERROR)


def free_folder() -> Path:
    """Return `outputs/demo`, or the first of `outputs/demo-2`, `-3`, ... that holds no earlier demo."""
    folder, number = ROOT / "outputs" / "demo", 1
    while folder.exists():
        number += 1
        folder = ROOT / "outputs" / f"demo-{number}"
    return folder


def show_gain(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Train the small model by self-play; return `before`, `difference`, `low` and `high` of each metric, in points."""
    from learning import SAMPLES, SETTINGS, measure
    from transformers.utils.logging import disable_progress_bar
    from worlds import WORLDS

    from serl_trl.train import run

    disable_progress_bar()
    world = WORLDS["small"]
    folder.mkdir(parents=True)
    seeds, trained = folder / "seeds.jsonl", folder / "trained"
    seeds.write_text("".join(json.dumps({"question": text}) + "\n" for text in world.seed_rows(0)["instruction"]))
    start = world.start_model(folder)
    before = measure(start, world, folder, "start")
    settings = SETTINGS | {"method": "trusted", "seed": seed, "logging_steps": 10, "disable_tqdm": False}
    arguments = [argument for name, value in settings.items() for argument in (f"--{name}", str(value))]
    arguments += ["--model_name_or_path", str(start), "--seeds", str(seeds)]
    run([*arguments, "--output_dir", str(trained)])
    after = measure(trained, world, folder, "trained", compare=str(folder / "eval_start" / "results.json"))
    metrics = before["datasets"]["held_out"]["metrics"]
    return {
        metric: {"before": 100 * metrics[metric]["value"]}
        | {name: 100 * change[name] for name in ("difference", "low", "high")}
        for metric, change in after["comparison"]["datasets"]["held_out"].items()
        if metric in ("pass@1", f"maj@{SAMPLES}")
    }


def gain_lines(gains: dict[str, dict[str, float]]) -> str:
    """Return the gains as a table."""
    lines = ["              before    after     gain, 95 % interval"]
    for metric, gain in gains.items():
        after = gain["before"] + gain["difference"]
        lines.append(
            f"{metric:12}  {gain['before']:4.1f} %    {after:4.1f} %    {gain['difference']:+.1f} "
            f"[{gain['low']:+.1f}, {gain['high']:+.1f}]"
        )
    return "\n".join(lines)


def show_loop(folder: Path) -> None:
    """Let the real model write, answer, vote and train."""
    from demo_model import make_demo_model

    from serl_trl.train import run

    if find_spec("vllm"):
        from vllm.model_executor.model_loader import weight_utils

        weight_utils.enable_tqdm = lambda is_wanted: False  # its bar of weights; no setting of TRL's reaches it
    print("Converting SmolLM2-135M-Instruct to a checkpoint (once) ...", flush=True)
    model = make_demo_model()
    engine = "colocated vLLM" if find_spec("vllm") else "transformers generation, since vLLM is not installed here"
    print(f"Training {model} with {engine}.", flush=True)
    arguments = ["--config", str(ROOT / "recipes" / "demo.yaml"), "--model_name_or_path", str(model)]
    arguments += ["--save_strategy", "no"]  # a checkpoint of it has 1.6 GB
    arguments += ["--disable_tqdm", "False"]  # transformers takes be_quiet for a wish for no bars, nor lines
    arguments += ["--seeds", str(ROOT / "src" / "serl_trl" / "data" / "arithmetic.jsonl")]
    run([*arguments, "--output_dir", str(folder)])


def main() -> None:
    be_quiet()
    folder = Path(os.path.relpath(free_folder()))
    print("\n1. A model of 0.3 million parameters, 50 sums and differences as seeds, not one answer\n", flush=True)
    gains = show_gain(folder / "small", SEED)
    print("\n2. The same loop on a real language model: far too briefly to make it better\n", flush=True)
    show_loop(folder / "smollm2")
    print(f"\nThe small model on 150 questions that it was not trained on, in % right:\n\n{gain_lines(gains)}")
    print(
        f"\nThe reports, to open in a browser:\n  {folder}/small/trained/_report.html\n  {folder}/smollm2/_report.html"
    )


if __name__ == "__main__":
    main()

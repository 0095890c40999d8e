"""SeRL's step beside that of TRL's GRPOTrainer: the same model, engine, seeds, rewards and numbers.

    python benchmarks/step.py                  # the 0.3 M-parameter model, transformers generation
    python benchmarks/step.py --model smollm2  # SmolLM2-135M-Instruct, colocated vLLM

Both train on seeds with true answers, all groups, in processes of their own that take turns, two or three times. Seconds a
step by the clock, medians without the first two steps, and the median of the ratios. The learning rate is almost 0, so
that all completions come from the same weights. One core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
PAIRS = {"tiny": 3, "smollm2": 2}  # the second takes a quarter of an hour
QUIET_ON_CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
SETTINGS = {
    **QUIET_ON_CPU,
    "learning_rate": 1e-9,
    "beta": 0.0,
    "method": "paper",
    "instruction_source": "seeds",
    "label_source": "true_answer",
    "min_pass_rate": 0.0,
    "max_pass_rate": 1.0,
}
MODELS = {
    "tiny": {
        "max_steps": 60,
        "num_generations": 16,
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 8,
        "use_vllm": False,
        "prompt_template": str(ROOT / "tests" / "tiny_template.yaml"),
    },
    "smollm2": {
        "max_steps": 4,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 32,
        "use_vllm": True,
        "vllm_max_model_length": 384,
    },
}


def make_trainer(trainer: str, model: str, output: str):
    """Return SeRL's or TRL's trainer."""
    from datasets import Dataset
    from demo_model import make_demo_model
    from trl import GRPOConfig, GRPOTrainer

    from serl_trl import SeRLConfig, SeRLTrainer, accuracy_reward
    from serl_trl.engine.vllm import prepare_vllm
    from serl_trl.engine.vllm_cpu import started_on_cpu
    from serl_trl.self_play import answer_prompt, load_template

    path = str(ROOT / "tests" / "tiny_model") if model == "tiny" else str(make_demo_model())
    seeds = [(f"What is {first} + {second}?", first + second) for first in range(2, 9) for second in range(2, 9)]
    config = SeRLConfig(output, **SETTINGS | MODELS[model])
    if trainer == "SeRL":
        rows = {"instruction": [text for text, _ in seeds], "answer": [str(answer) for _, answer in seeds]}
        return SeRLTrainer(path, config, Dataset.from_dict(rows))
    template = load_template(config.prompt_template)
    rows = {
        "prompt": [answer_prompt(text, template) for text, _ in seeds],
        "answer": [str(answer) for _, answer in seeds],
    }
    # `steps_per_generation` follows from the generation batch; TRL takes one of the two.
    names = {field.name for field in fields(GRPOConfig) if field.init} - {"steps_per_generation"}
    plain = GRPOConfig(**{name: getattr(config, name) for name in names})
    with started_on_cpu(plain):
        grpo = GRPOTrainer(path, accuracy_reward, args=plain, train_dataset=Dataset.from_dict(rows))
    prepare_vllm(grpo)  # on a CPU, TRL's way of pushing weights does not reach vLLM
    return grpo


def measure(trainer: str, model: str) -> dict:
    """Train; return the median of the seconds of a step and the mean length of a completion."""
    from transformers import TrainerCallback

    seconds = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            seconds.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as output:
        made = make_trainer(trainer, model, output)
        made.add_callback(Clock())
        made.train()
    lengths = [entry["completions/mean_length"] for entry in made.state.log_history if "reward" in entry]
    return {"seconds": statistics.median(seconds[2:]), "length": statistics.mean(lengths[2:])}


def run(trainer: str, model: str) -> dict:
    command = [sys.executable, __file__, "--model", model, "--trainer", trainer]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.split("RESULT", 1)[1].splitlines()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--trainer", choices=["SeRL", "GRPO"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trainer:
        print("RESULT", json.dumps(measure(args.trainer, args.model)))
        return
    pairs = [{trainer: run(trainer, args.model) for trainer in ("GRPO", "SeRL")} for _ in range(PAIRS[args.model])]
    print("| trainer | a step, s | completion, tokens |\n| --- | --- | --- |")
    for trainer in ("GRPO", "SeRL"):
        seconds, lengths = ([pair[trainer][name] for pair in pairs] for name in ("seconds", "length"))
        print(f"| {trainer} | {statistics.median(seconds):.3f} | {statistics.mean(lengths):.1f} |")
    ratios = sorted(pair["SeRL"]["seconds"] / pair["GRPO"]["seconds"] for pair in pairs)
    print(f"\nSeRL takes {statistics.median(ratios):.2f} x as long ({ratios[0]:.2f} to {ratios[-1]:.2f}).")


if __name__ == "__main__":
    main()

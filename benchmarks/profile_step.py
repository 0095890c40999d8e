"""Where the time of a step goes: the engine, our loop, TRL's work on the batch, and forward, backward and update.

    python benchmarks/profile_step.py                  # the 0.3 M-parameter model, transformers generation
    python benchmarks/profile_step.py --model smollm2  # SmolLM2-135M-Instruct, colocated vLLM, 8 groups of 8
    python benchmarks/profile_step.py --functions      # and the functions of the loop that take longest

Mean seconds a step by the clock, each stage without those within it, without the first step. One core.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
from collections import Counter

from gpu_parts.recorder import Recorder
from step import QUIET_ON_CPU
from worlds import ROOT, WORLDS


SETTINGS = {
    **QUIET_ON_CPU,
    "learning_rate": 1e-6,
    "evidence_seeds": 0,
    "sentinel_checks": 0,
    "instruction_presence_penalty": 0.0,
}
METHODS = {"tiny": ("paper", "trusted"), "smollm2": ("paper",)}  # SmolLM2 writes too little that the gate lets pass
MODELS = {
    "tiny": {
        "max_steps": 30,
        "num_generations": 16,
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 8,
        "max_instruction_length": 40,
        "diversity_threshold": 1.0,
        "use_vllm": False,
        "prompt_template": str(ROOT / "tests" / "tiny_template.yaml"),
    },
    "smollm2": {
        "max_steps": 3,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 8,
        "max_completion_length": 64,
        "max_instruction_length": 128,
        "temperature": 0.7,
        "min_pass_rate": 0.1,
        "max_rounds": 64,
        "vllm_max_model_length": 1024,
    },
}


def make_trainer(model: str, method: str, output: str):
    from demo_model import make_demo_model

    from serl_trl import SeRLConfig, SeRLTrainer

    path = str(ROOT / "tests" / "tiny_model") if model == "tiny" else str(make_demo_model())
    seeds = [f"What is {first} + {second}?" for first in range(2, 9) for second in range(2, 9)]
    if model == "tiny":
        seeds = WORLDS["small"].seed_rows(0)["instruction"]  # in the words that it knows
    return SeRLTrainer(path, SeRLConfig(output, method=method, **SETTINGS | MODELS[model]), seeds)


def stages(model: str, method: str, profiler: cProfile.Profile | None) -> dict[str, float]:
    """Train; return the mean seconds a step of each stage."""
    from serl_trl.engine.sampling_settings import attributes
    from serl_trl.self_play import SelfPlayLoader

    recorder, play = Recorder(), SelfPlayLoader.__next__
    profiled = play if profiler is None else lambda loader: profiler.runcall(play, loader)
    with (
        tempfile.TemporaryDirectory() as output,
        attributes(SelfPlayLoader, {"__next__": recorder.timed("our loop", profiled)}),
    ):
        trainer = make_trainer(model, method, output)
        trainer._generate_single_turn = recorder.timed("engine", trainer._generate_single_turn)
        score = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = recorder.timed("TRL's work on the batch", score)
        trainer.add_callback(recorder)
        trainer.train()
    found, rows = Counter(), recorder.rows[1:]
    for row in rows:
        found.update(row["stages"])
        found["forward, backward, update"] += row["seconds"] - sum(row["stages"].values())
    return {name: total / len(rows) for name, total in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--functions", action="store_true", help="print the functions of the loop that take longest")
    args = parser.parse_args()
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    profiler = cProfile.Profile() if args.functions else None
    found = {method: stages(args.model, method, profiler) for method in METHODS[args.model]}
    print("| method | stage | s a step | share |\n| --- | --- | --- | --- |")
    for method, seconds in found.items():
        for name, each in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"| {method} | {name} | {each:.3f} | {each / sum(seconds.values()):.1%} |")
    if profiler:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


if __name__ == "__main__":
    main()

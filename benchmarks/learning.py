"""Does it learn, and does it ever lose? The rules in worlds small enough to repeat them many times.

A 0.3 M-parameter model (scripts/make_tiny_model.py) writes and answers sums and differences. 50 questions are the seeds;
150 others are held out to measure pass@1 and maj@16, before and after. Every arm trains on as many completions, over
several random seeds:

    python benchmarks/learning.py                       # the rules in all worlds of worlds.py: docs/worlds.png
    python benchmarks/learning.py --ablation            # parts of the paper's rule, in the small world: docs/learning.png
    python benchmarks/learning.py --sweep               # one setting of it changed at a time: docs/learning_sweep.png

Finished runs are kept in `outputs`, in a folder for each figure, so that an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from learning_figures import T_QUANTILES, by_arm, draw, draw_sweep, draw_worlds, table, worlds_table
from worlds import ROOT, WORLDS, World, question


STEPS, GROUPS, GENERATIONS = 70, 8, 16
SAMPLES = 16  # completions of each held-out question

# The paper's band, KL and cosine; the learning rate is the small model's own.
SETTINGS = {
    "method": "paper",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_vllm": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1000,
    "max_steps": STEPS,
    "learning_rate": 6e-5,
    "warmup_steps": 0.1,  # from trials with fewer groups a step; the sweep shows no difference from the paper's 3 %
    "num_generations": GENERATIONS,
    "per_device_train_batch_size": GROUPS * GENERATIONS,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 8,
    "max_instruction_length": 40,
    "instruction_presence_penalty": 0.0,  # the words of a question return in the next: it would forbid them
    "prompt_template": str(ROOT / "tests" / "tiny_template.yaml"),
    "diversity_threshold": 1.0,  # there are only 200 questions: the same one may be written again
}
NO_BAND = {"min_pass_rate": 0.0, "max_pass_rate": 1.0}
ON_SEEDS = {"instruction_source": "seeds"}

# name -> settings that differ from the paper's; beside them the world, and a reward of REWARDS
RULES = {
    "paper": {},
    "trusted": {"method": "trusted"},
    "true labels on its own instructions": {"reward": "true answer"},
    "true labels on the seeds": ON_SEEDS | NO_BAND | {"label_source": "true_answer"},
    "trusted, random rewards": {"method": "trusted", "reward": "random"},
}
RULES_OF = {
    "small": list(RULES),
    "weak": list(RULES)[:3],
    "fast": list(RULES)[:3],
    "drift": ["paper", "trusted", "true labels on the seeds"],
    "wrong_class": list(RULES)[:3],
}
WORLD_ARMS = {f"{world}: {rule}": {"world": world} | RULES[rule] for world in RULES_OF for rule in RULES_OF[world]}
ABLATION = {
    "SeRL": {},
    "SeRL without the difficulty filter": NO_BAND,
    "SeRL, lower bound only": {"max_pass_rate": 1.0},
    "SeRL, upper bound only": {"min_pass_rate": 0.0},
    "vote only, on the seeds": ON_SEEDS,
    "SeRL, Dr. GRPO": {"advantage_estimator": "dr_grpo"},
    "SeRL, RLOO": {"advantage_estimator": "rloo"},
    "SeRL, REINFORCE++": {"advantage_estimator": "reinforce_plus_plus"},
    "SeRL, REINFORCE++-baseline": {"advantage_estimator": "reinforce_plus_plus_baseline"},
}

# setting -> its values -> settings that differ from SeRL's; the paper's value is among them
SWEEP = {
    "band": {
        "0.2 to 0.8": {},
        "0.4 to 0.8": {"min_pass_rate": 0.4},
        "0.6 to 0.8": {"min_pass_rate": 0.6},
        "0.2 to 0.95": {"max_pass_rate": 0.95},
        "0.5 to 0.95": {"min_pass_rate": 0.5, "max_pass_rate": 0.95},
    },
    "learning rate": {"3e-5": {"learning_rate": 3e-5}, "6e-5": {}, "2e-4": {"learning_rate": 2e-4}},
    "warm-up": {"none": {"warmup_steps": 0}, "3 %": {"warmup_steps": 0.03}, "10 %": {}},
    "KL coefficient": {"0": {"beta": 0.0}, "0.001": {}, "0.1": {"beta": 0.1}},
    "completions of a group": {"8": {"num_generations": 8}, "16": {}, "32": {"num_generations": 32}},
    "groups of a step": {  # as many completions in all
        "2": {"per_device_train_batch_size": 32, "max_steps": 4 * STEPS},
        "4": {"per_device_train_batch_size": 64, "max_steps": 2 * STEPS},
        "8": {},
    },
    "kept examples of 8": {"0": {"max_kept_examples": 0}, "2": {}, "6": {"max_kept_examples": 6}},
    "start, maj@16": {"0.62": {"world": "weak"}, "0.93": {}},
}


def true_answer_reward(world: World, seed: int):
    """Return a reward function by the true answer, also where the model wrote the question: what labels can do."""
    from serl_trl.rewards import is_correct

    def reward(prompts, completions, **kwargs) -> list[float]:
        truths = [world.true_answer(prompt[0]["content"]) for prompt in prompts]
        return [
            float(truth is not None and is_correct(completion[0]["content"], str(truth)))
            for truth, completion in zip(truths, completions, strict=True)
        ]

    return reward


def random_reward(world: World, seed: int):
    """Return a reward function that throws a coin for each completion: what training does without a signal."""
    rng = random.Random(seed)

    def reward(completions, **kwargs) -> list[float]:
        return [float(rng.random() < 0.5) for _ in completions]

    return reward


REWARDS = {"true answer": true_answer_reward, "random": random_reward}


def train(arm: str, settings: dict, seed: int, folder: Path) -> dict:
    """Train one arm with one random seed; return its measures before, during and after."""
    import pyarrow.parquet as pq
    from datasets import Dataset
    from make_tiny_model import pass_at_1
    from transformers import TrainerCallback

    from serl_trl import SeRLConfig, SeRLTrainer
    from serl_trl.self_play.funnel import SAMPLED
    from serl_trl.training.trust import NotReadyError

    arm_settings, settings = settings, dict(settings)
    world, reward = WORLDS[settings.pop("world", "small")], settings.pop("reward", None)
    labelled = len(world.seeds) if settings.get("label_source") == "true_answer" else world.labelled
    rows = Dataset.from_dict(world.seed_rows(labelled))
    output = folder / f"run-{os.getpid()}"
    shutil.rmtree(output, ignore_errors=True)
    config = SeRLConfig(str(output), seed=seed, **SETTINGS | world.settings | settings)
    reward_funcs = REWARDS[reward](world, seed) if reward else None
    trainer = SeRLTrainer(str(world.start_model(folder)), config, rows, reward_funcs=reward_funcs)
    curve = [(0, pass_at_1(trainer.model, trainer.processing_class, world.held_out))]

    class Curve(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % 10 == 0:
                curve.append((state.global_step, pass_at_1(trainer.model, trainer.processing_class, world.held_out)))

    trainer.add_callback(Curve())
    began = time.perf_counter()
    refused = None
    try:
        trainer.train()
    except NotReadyError as error:
        refused = str(error)
    seconds = time.perf_counter() - began
    last, steps = pass_at_1(trainer.model, trainer.processing_class, world.held_out), trainer.state.global_step
    # The sentinel may change the model at the end; of a run that ends early, it stays what it is.
    curve = [point for point in curve if point[0] < max(steps, 1)]
    curve += [(step, last) for step in range(curve[-1][0] + 10, config.max_steps + 1, 10)]
    trainer.save_model(output)
    ledger = [row for path in sorted(output.glob("_ledger/*.parquet")) for row in pq.read_table(path).to_pylist()]
    for row in ledger:
        truth = world.true_answer(row["instruction"])
        row["right"] = truth is not None and row["pseudo_label"] == str(truth)
    trained = [row for row in ledger if row["fate"] == "trained"]
    thirds = [
        [row for row in trained if row["trained_step"] * 3 // steps == third] for third in range(3 if trained else 0)
    ]
    result = {
        "arm": arm,
        "settings": arm_settings,
        "seed": seed,
        **values(measure(output, world, output, "held_out")),
        "curve": curve,
        "label_accuracy": [sum(row["right"] for row in third) / len(third) for third in thirds],
        "distinct": [len({row["instruction"] for row in third}) / len(third) for third in thirds],
        "calibration": calibration(ledger),
        "trained_tokens": trainer.loader.totals.counts["trained_tokens"],
        "sampled_tokens": sum(trainer.loader.totals.counts[f"{what}_tokens"] for what in SAMPLED),
        "alarms": trainer.trust.sentinel.alarms,
        "refused": refused,
        "seconds": seconds,
        "steps": steps,
    }
    if world.is_far:
        result["far"] = [sum(world.is_far(row["instruction"]) for row in third) / len(third) for third in thirds]
    shutil.rmtree(output)
    return result


def calibration(ledger: list[dict]) -> dict[str, list[list[int]]]:
    """Return, for all groups that were voted on, how many pseudo-labels were right and how many there were.

    By tenths of the pass rate, and of the margin: the share of the first answer less that of the second.
    """
    counts = {name: [[0, 0] for _ in range(11)] for name in ("pass rate", "margin")}
    for row in ledger:
        if row["pseudo_label"] is None:
            continue
        answers = Counter(answer for answer in row["answers"] if answer is not None).most_common(2)
        second = answers[1][1] if len(answers) > 1 else 0
        values = {"pass rate": row["pass_rate"], "margin": row["pass_rate"] - second / len(row["answers"])}
        for name, value in values.items():
            right, total = counts[name][round(10 * value)]
            counts[name][round(10 * value)] = [right + row["right"], total + 1]
    return counts


def measure(model: Path, world: World, folder: Path, name: str, **settings) -> dict:
    """Return the results of `serl-trl eval` on the held-out questions, written to `folder/eval_name`."""
    from serl_trl.evaluation.arguments import EvaluationArguments
    from serl_trl.evaluation.job import evaluate

    data, output = folder / "held_out.jsonl", folder / f"eval_{name}"
    texts = [question(*pair) for pair in world.held_out]
    data.write_text("".join(json.dumps({"question": t, "answer": str(world.true_answer(t))}) + "\n" for t in texts))
    return evaluate(
        EvaluationArguments(
            model=str(model),
            data=[str(data)],
            num_samples=SAMPLES,
            batch_size=len(texts) * SAMPLES,
            max_completion_length=SETTINGS["max_completion_length"],
            prompt_template=SETTINGS["prompt_template"],
            use_vllm=False,
            output_dir=str(output),
            **settings,
        )
    )


def values(results: dict) -> dict[str, float]:
    """Return pass@1 and maj@16 of the results of [`measure`]."""
    metrics = results["datasets"]["held_out"]["metrics"]
    return {name: metrics[name]["value"] for name in ("pass@1", f"maj@{SAMPLES}")}


def set_up_worker() -> None:
    """Let each of the two processes have one core, and say nothing."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sys.stdout = open(os.devnull, "w")


def run_job(job: tuple) -> dict:
    """Train one arm with one seed, in a worker; see [`train`]."""
    return train(*job)


def run_all(arms: dict[str, dict], seeds: int, folder: Path) -> list[dict]:
    """Return the results of all arms and seeds; what an interrupted benchmark has finished is not run again."""
    record = folder / "results.jsonl"
    lines = record.read_text().split("\n")[:-1] if record.exists() else []  # a kill may leave half a line
    results = [result for result in map(json.loads, lines) if result["settings"] == arms.get(result["arm"])]
    record.write_text("".join(json.dumps(result) + "\n" for result in results))
    finished = {(result["arm"], result["seed"]) for result in results}
    # Seed by seed, so that what an interrupt leaves is comparable.
    jobs = [(arm, arms[arm], seed, folder) for seed in range(seeds) for arm in arms if (arm, seed) not in finished]
    for name in {settings.get("world", "small") for settings in arms.values()}:
        WORLDS[name].start_model(folder)
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2, set_up_worker) as pool, record.open("a") as file:
        for done, result in enumerate(pool.imap_unordered(run_job, jobs), start=1):
            file.write(json.dumps(result) + "\n")
            file.flush()
            results.append(result)
            print(
                f"{done}/{len(jobs)}  {result['arm']}, seed {result['seed']}: pass@1 {result['pass@1']:.3f}",
                flush=True,
            )
    print(f"{len(jobs)} runs in {(time.perf_counter() - began) / 60:.1f} minutes\n")
    return [result for result in results if result["arm"] in arms and result["seed"] < seeds]


def sweep_name(changes: dict) -> str:
    """Return the name of an arm of the sweep, that of SeRL itself for no changes."""
    return ", ".join(["SeRL", *(f"{setting} {value}" for setting, value in changes.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ablation", action="store_true", help="parts of the paper's rule, in the small world")
    kind.add_argument("--sweep", action="store_true", help="one setting of the paper's rule changed at a time")
    parser.add_argument("--seeds", type=int, help="runs of each arm; by default 5, and 3 in the sweep")
    args = parser.parse_args()
    if args.seeds is not None and not 1 <= args.seeds <= max(T_QUANTILES):
        parser.error(f"--seeds is {args.seeds}. Set it within [1, {max(T_QUANTILES)}].")
    name = "learning_sweep" if args.sweep else "learning" if args.ablation else "worlds"
    folder, figure = ROOT / "outputs" / name, ROOT / "docs" / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    sweep = {sweep_name(changes): changes for values in SWEEP.values() for changes in values.values()}
    arms = sweep if args.sweep else ABLATION if args.ablation else WORLD_ARMS
    groups = by_arm(run_all(arms, args.seeds or (3 if args.sweep else 5), folder), arms)
    if name == "worlds":
        print(worlds_table(groups))
        draw_worlds(groups, figure)
    else:
        world = WORLDS["small"]
        with TemporaryDirectory() as evaluation:
            start = values(measure(world.start_model(folder), world, Path(evaluation), "start"))
        print(table(groups, start[f"maj@{SAMPLES}"]))
        if args.sweep:
            draw_sweep(
                {
                    setting: {value: groups[sweep_name(changes)] for value, changes in values.items()}
                    for setting, values in SWEEP.items()
                },
                figure,
            )
        else:
            draw(groups, figure)
    print(f"\n{figure.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

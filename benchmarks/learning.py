"""Does it learn? The paper's claim in worlds small enough to repeat it many times.

A 0.3 M-parameter model (scripts/make_tiny_model.py) writes and answers sums and differences of single digits. 50 of the
200 questions are the seeds; the other 150 are held out to measure pass@1 and maj@16, before and after. Every arm trains
on as many completions, over several random seeds:

    python benchmarks/learning.py                       # the table and the figure, docs/learning.png
    python benchmarks/learning.py --sweep               # one setting changed at a time, docs/learning_sweep.png
    python benchmarks/learning.py --world drift         # the rules in another world, docs/learning_drift.png

Finished runs are kept in `outputs`, in a folder for each figure, so that an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
from worlds import ROOT, WORLDS, World, question


STEPS, GROUPS, GENERATIONS = 70, 8, 16
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # 97.5 %
SAMPLES = 16  # completions of each held-out question

# The paper's band, KL and cosine; the learning rate is the small model's own.
SETTINGS = {
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

# name -> settings that differ from SeRL's; beside them the world, and a reward of REWARDS
ARMS = {
    "true labels on the seeds": ON_SEEDS | NO_BAND | {"label_source": "true_answer"},
    "true labels on its own instructions": {"reward": "true answer"},
    "SeRL": {},
    "SeRL without the difficulty filter": NO_BAND,
    "SeRL, lower bound only": {"max_pass_rate": 1.0},
    "SeRL, upper bound only": {"min_pass_rate": 0.0},
    "vote only, on the seeds": ON_SEEDS,
    "SeRL, Dr. GRPO": {"advantage_estimator": "dr_grpo"},
    "SeRL, RLOO": {"advantage_estimator": "rloo"},
    "SeRL, REINFORCE++": {"advantage_estimator": "reinforce_plus_plus"},
    "SeRL, REINFORCE++-baseline": {"advantage_estimator": "reinforce_plus_plus_baseline"},
    "SeRL from a weak start": {"world": "weak"},
    "random rewards": {"reward": "random"},
}
# world -> its arms: all of them in the small one, the rules in the others
RULES = [*list(ARMS)[:3], "vote only, on the seeds", "random rewards"]
ARMS_OF = {name: {arm: {"world": name} | ARMS[arm] for arm in RULES} for name in WORLDS} | {"small": ARMS}
NEAR = {"world": "drift", "blocked_words": [str(number) for number in range(10, 30)]}
ARMS_OF["drift"] |= {
    "SeRL, small numbers only": NEAR,
    "true labels, small numbers only": NEAR | {"reward": "true answer"},
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
    # A model that agrees with itself on everything ends its run early, and stays what it is.
    last, steps = pass_at_1(trainer.model, trainer.processing_class, world.held_out), trainer.state.global_step
    curve[1:] = (
        [*curve[1:-1], (curve[-1][0], last)] if len(curve) > 1 else []
    )  # a sentinel may change the model at the end
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
        **measure(output, world, folder),
        "curve": curve,
        "label_accuracy": [sum(row["right"] for row in third) / len(third) for third in thirds],
        "distinct": [len({row["instruction"] for row in third}) / len(third) for third in thirds],
        "calibration": calibration(ledger),
        "trained_tokens": trainer.loader.totals.counts["trained_tokens"],
        "sampled_tokens": sum(trainer.loader.totals.counts[f"{what}_tokens"] for what in SAMPLED),
        "alarms": trainer.trust.alarms,
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


def measure(model: Path, world: World, folder: Path) -> dict:
    """Return pass@1 and maj@16 on the held-out questions, as `serl-trl eval` measures them."""
    from serl_trl.evaluation.arguments import EvaluationArguments
    from serl_trl.evaluation.job import evaluate

    data, output = folder / f"held-out-{os.getpid()}.jsonl", folder / f"eval-{os.getpid()}"
    texts = [question(*pair) for pair in world.held_out]
    data.write_text("".join(json.dumps({"question": t, "answer": str(world.true_answer(t))}) + "\n" for t in texts))
    shutil.rmtree(output, ignore_errors=True)
    results = evaluate(
        EvaluationArguments(
            model=str(model),
            data=[str(data)],
            num_samples=SAMPLES,
            batch_size=len(texts) * SAMPLES,
            max_completion_length=8,
            prompt_template=SETTINGS["prompt_template"],
            use_vllm=False,
            output_dir=str(output),
        )
    )
    shutil.rmtree(output)
    (metrics,) = (dataset["metrics"] for dataset in results["datasets"].values())
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


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % t-interval over the seeds; no width for a single one."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, T_QUANTILES[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def by_arm(results: list[dict], arms: dict[str, dict]) -> dict[str, list[dict]]:
    """Return the results of each arm, with the gain in pass@1 over its start."""
    for result in results:
        result["gain"] = result["curve"][-1][1] - result["curve"][0][1]
    return {arm: [result for result in results if result["arm"] == arm] for arm in arms}


def table(groups: dict[str, list[dict]], start_majority: float) -> str:
    """Return the Markdown table of all arms: means over the seeds, and maj@16 of the start."""
    names = {"label_accuracy": "labels right", "distinct": "different instructions", "far": "beyond the seeds"}
    names = {name: title for name, title in names.items() if name in groups["SeRL"][0]}
    lines = [
        f"| arm | pass@1 | gain, 95 % interval | worst seed | maj@16 | {' | '.join(names.values())} |",
        "| --- " * (5 + len(names)) + "|",
        f"| start | {groups['SeRL'][0]['curve'][0][1]:.3f} | | | {start_majority:.3f} {'| ' * len(names)}|",
    ]
    for arm, runs in groups.items():
        mean, half = interval([run["gain"] for run in runs])
        final = statistics.mean(run["curve"][-1][1] for run in runs)
        majority = statistics.mean(run["maj@16"] for run in runs)
        thirds = {
            name: " → ".join(f"{statistics.mean(run[name][third] for run in runs):.2f}" for third in range(3))
            for name in names
        }
        if "true labels" in arm:
            thirds["label_accuracy"] = "true labels"
        lines.append(
            f"| {arm} | {final:.3f} | {mean:+.3f} ± {half:.3f} | {min(run['gain'] for run in runs):+.3f} | "
            f"{majority:.3f} | {' | '.join(thirds.values())} |"
        )
    return "\n".join(lines)


def draw(groups: dict[str, list[dict]], path: Path) -> None:
    """Draw gains, curves, labels and diversity of the arms."""
    figure, ((gains, curves), (labels, distinct)) = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    for place, runs in enumerate(groups.values()):
        values = [run["gain"] for run in runs]
        mean, half = interval(values)
        gains.errorbar(mean, -place, xerr=half, fmt="o", color="C0", capsize=3)
        gains.plot(values, [-place] * len(values), "|", color="C1")
    gains.axvline(0, color="gray", linewidth=0.8)
    gains.set(title="gain in pass@1: mean, 95 % interval, each seed", yticks=[-n for n in range(len(groups))])
    gains.set_yticklabels(list(groups))
    for arm in list(groups)[:7]:
        runs = groups[arm]
        steps = [step for step, _ in runs[0]["curve"]]
        curves.plot(steps, [statistics.mean(run["curve"][n][1] for run in runs) for n in range(len(steps))], label=arm)
        for axis, name in ((labels, "label_accuracy"), (distinct, "distinct")):
            axis.plot([1, 2, 3], [statistics.mean(run[name][n] for run in runs) for n in range(3)], "o-", label=arm)
    curves.set(title="pass@1 on the held-out questions", xlabel="step")
    labels.set(title="pseudo-labels that are right, of those trained on", xlabel="third of the run", xticks=[1, 2, 3])
    distinct.set(title="different instructions, as a share", xlabel="third of the run", xticks=[1, 2, 3])
    curves.legend(fontsize="small")
    figure.savefig(path, dpi=80)


def draw_front(groups: dict[str, list[dict]], path: Path) -> None:
    """Draw what the README begins with: pass@1 over the steps of SeRL and of true labels on the same seeds."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    shown = {
        "SeRL": ("SeRL, no labels", "C0"),
        "true labels on the seeds": ("true labels on the same questions", "C7"),
    }
    for arm, (label, color) in shown.items():
        curves = [run["curve"] for run in groups[arm]]
        steps = [step for step, _ in curves[0]]
        points = [interval([curve[n][1] for curve in curves]) for n in range(len(steps))]
        axis.plot(steps, [mean for mean, _ in points], color=color, label=label)
        bounds = ([mean - half for mean, half in points], [mean + half for mean, half in points])
        axis.fill_between(steps, *bounds, color=color, alpha=0.2, linewidth=0)
    axis.axhline(groups["SeRL"][0]["curve"][0][1], color="gray", linewidth=0.8, linestyle=":", label="start")
    axis.set(xlabel="step", ylabel="pass@1 on held-out questions")
    axis.set_title(
        f"a 0.3 M-parameter model, mean of {len(groups['SeRL'])} random runs with its 95 % interval", fontsize="medium"
    )
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def sweep_name(changes: dict) -> str:
    """Return the name of an arm of the sweep, that of SeRL itself for no changes."""
    return ", ".join(["SeRL", *(f"{setting} {value}" for setting, value in changes.items())])


def draw_sweep(groups: dict[str, list[dict]], path: Path) -> None:
    """Draw the gain of each seed for each value of each setting of the sweep."""
    figure, axes = plt.subplots(2, 5, figsize=(19, 7), layout="constrained")
    for axis, (setting, values) in zip(axes.flat, SWEEP.items(), strict=False):
        for place, value in enumerate(values):
            gains = [run["gain"] for run in groups[sweep_name(values[value])]]
            axis.plot([place] * len(gains), gains, "o", color="C1", alpha=0.6)
            axis.plot([place - 0.2, place + 0.2], [statistics.mean(gains)] * 2, color="C0")
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set(title=setting, xticks=range(len(values)))
        axis.set_xticklabels(list(values), fontsize="small")
        axis.set_ylim(-0.06, 0.08)
    for axis, name in zip(axes.flat[-2:], ("pass rate", "margin"), strict=True):
        runs = groups["SeRL"]
        counts = [[sum(run["calibration"][name][place][n] for run in runs) for n in (0, 1)] for place in range(11)]
        seen = [place for place in range(11) if counts[place][1] >= 20]
        axis.plot([place / 10 for place in seen], [counts[place][0] / counts[place][1] for place in seen], "o-")
        axis.set(title=f"pseudo-labels that are right, by {name}", ylim=(0, 1.02), xlim=(0, 1.02))
    figure.suptitle("gain in pass@1 over the start: each seed, and the mean")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="one setting changed at a time")
    parser.add_argument("--seeds", type=int, help="runs of each arm; by default 5, and 3 in the sweep")
    parser.add_argument("--world", choices=WORLDS, default="small", help="what is asked, and where it starts")
    args = parser.parse_args()
    if args.sweep and args.world != "small":
        parser.error(f"--sweep is in the small world, and --world is {args.world}. Leave one of them out.")
    if args.seeds is not None and not 1 <= args.seeds <= max(T_QUANTILES):
        parser.error(f"--seeds is {args.seeds}. Set it within [1, {max(T_QUANTILES)}].")
    name = "learning_sweep" if args.sweep else "learning" if args.world == "small" else f"learning_{args.world}"
    folder = ROOT / "outputs" / name
    folder.mkdir(parents=True, exist_ok=True)
    arms = ARMS_OF[args.world]
    if args.sweep:
        arms = {sweep_name(changes): changes for values in SWEEP.values() for changes in values.values()}
    results = run_all(arms, args.seeds or (3 if args.sweep else 5), folder)
    groups = by_arm(results, arms)
    world = WORLDS[args.world]
    start = measure(world.start_model(folder), world, folder)
    print(table(groups, start[f"maj@{SAMPLES}"]))
    figure = ROOT / "docs" / f"{name}.png"
    (draw_sweep if args.sweep else draw)(groups, figure)
    if name == "learning":
        draw_front(groups, ROOT / "docs" / "gain.png")
    print(f"\n{figure.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Tables and figures of benchmarks/learning.py."""

import math
import statistics
from pathlib import Path

import matplotlib.pyplot as plt


T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # 97.5 %


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
    names = {"label_accuracy": "labels right", "distinct": "different instructions"}
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


def draw_sweep(groups: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Draw the gain of each seed for each value of each setting of the sweep."""
    figure, axes = plt.subplots(2, 5, figsize=(19, 7), layout="constrained")
    for axis, (setting, values) in zip(axes.flat, groups.items(), strict=False):
        for place, runs in enumerate(values.values()):
            gains = [run["gain"] for run in runs]
            axis.plot([place] * len(gains), gains, "o", color="C1", alpha=0.6)
            axis.plot([place - 0.2, place + 0.2], [statistics.mean(gains)] * 2, color="C0")
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set(title=setting, xticks=range(len(values)))
        axis.set_xticklabels(list(values), fontsize="small")
        axis.set_ylim(-0.06, 0.08)
    for axis, name in zip(axes.flat[-2:], ("pass rate", "margin"), strict=True):
        runs = groups["band"]["0.2 to 0.8"]
        counts = [[sum(run["calibration"][name][place][n] for run in runs) for n in (0, 1)] for place in range(11)]
        seen = [place for place in range(11) if counts[place][1] >= 20]
        axis.plot([place / 10 for place in seen], [counts[place][0] / counts[place][1] for place in seen], "o-")
        axis.set(title=f"pseudo-labels that are right, by {name}", ylim=(0, 1.02), xlim=(0, 1.02))
    figure.suptitle("gain in pass@1 over the start: each seed, and the mean")
    figure.savefig(path, dpi=80)


def worlds_table(groups: dict[str, list[dict]]) -> str:
    """Return the Markdown table of the rules in all worlds; tokens are those sampled for each trained one, the paper's as 1."""
    lines = [
        "| world: rule | start | gain, 95 % interval | worst seed | maj@16 | labels right | sampled tokens | alarms | refused |",
        "| --- " * 9 + "|",
    ]
    for arm, runs in groups.items():
        mean, half = interval([run["gain"] for run in runs])
        trained = [run for run in runs if not run["refused"]]
        labels = [statistics.mean(run["label_accuracy"]) for run in trained]
        cells = ["", ""]
        if trained:
            paper = groups[f"{arm.split(':')[0]}: paper"]
            cells = [f"{statistics.mean(labels):.2f}", f"{tokens_ratio(trained) / tokens_ratio(paper):.2f}"]
        lines.append(
            f"| {arm} | {runs[0]['curve'][0][1]:.3f} | {mean:+.3f} ± {half:.3f} | {min(run['gain'] for run in runs):+.3f} | "
            f"{statistics.mean(run['maj@16'] for run in runs):.3f} | {' | '.join(cells)} | "
            f"{sum(run['alarms'] for run in runs)} | {sum(bool(run['refused']) for run in runs)} of {len(runs)} |"
        )
    return "\n".join(lines)


def tokens_ratio(runs: list[dict]) -> float:
    """Return how many tokens were sampled for each that was trained on."""
    return statistics.mean(run["sampled_tokens"] / run["trained_tokens"] for run in runs)


def draw_worlds(groups: dict[str, list[dict]], path: Path) -> None:
    """Draw the gain of each random seed, by world, of the paper's rule and the trusted one."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    worlds = list(dict.fromkeys(arm.split(":")[0] for arm in groups))
    for offset, rule, color in ((-0.12, "paper", "C7"), (0.12, "trusted", "C0")):
        for place, world in enumerate(worlds):
            gains = [100 * run["gain"] for run in groups[f"{world}: {rule}"]]
            label = rule if place == 0 else None
            axis.plot([place + offset] * len(gains), gains, "o", color=color, alpha=0.7, label=label)
    axis.axhline(0, color="gray", linewidth=0.8)
    names = {
        "small": "default",
        "weak": "weak start\n(refused)",
        "fast": "learning rate\ntimes three",
        "drift": "room to drift",
    }
    axis.set_xticks(range(len(worlds)), [names.get(world, world.replace("_", " ")) for world in worlds])
    axis.set(ylabel="gain in pass@1, points")
    axis.set_title("0.3 M-parameter model, held-out questions; each dot is a random run", fontsize="medium")
    axis.legend()
    figure.savefig(path, dpi=110)

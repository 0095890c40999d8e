"""The results as a table that reads well in a terminal and in Markdown."""

from ..markdown import escaped, table
from ..self_play.confirmation import LOOKS
from ..self_play.seed_evidence import READY
from .metrics import RESAMPLES, VOTING, clear_leads


WEAK_MAJORITY = 0.7  # between the 0.62 that did not learn and the 0.94 that did (docs/runs.md)


def report(results: dict) -> str:
    """Return the text of `results.md`: how it was measured, all metrics by dataset and level, and the comparison."""
    settings, datasets = results["settings"], results["datasets"]
    parts = [
        f"{settings['model']}: {settings['num_samples']} completions of each instruction by {settings['engine']}, "
        f"temperature {settings['temperature']}, top_p {settings['top_p']}, at most "
        f"{settings['max_completion_length']} tokens, seed {settings['seed']}.\n"
        f"In %, with 95 % intervals (percentile bootstrap over instructions, {RESAMPLES:,} resamples; without width "
        "where all instructions score the same). A completion without a readable answer, or cut off, is wrong.",
        table(list(datasets), _metric_lines(datasets)),
    ]
    parts += [
        f"On {name} {data['timeouts']} answers took too long to read or compare, and are wrong."
        for name, data in datasets.items()
        if data["timeouts"]
    ]
    most = f"maj@{settings['num_samples']}"
    parts += [
        f"On {name} the majority is right for {100 * data['metrics'][most]['value']:.0f} % of the instructions. Where it "
        "was right for 62 %, self-play did not make the model better (docs/runs.md)."
        for name, data in datasets.items()
        if settings["num_samples"] >= 4 and data["metrics"][most]["value"] < WEAK_MAJORITY
    ]
    if settings["num_samples"] >= VOTING + max(LOOKS):
        for name, data in datasets.items():
            in_band, clear = clear_leads(data["rows"])
            parts.append(
                f"On {name} {in_band} instructions are in the band of method `trusted`, and more answers confirm the "
                f"majority of {clear} of these. It trains where that are {100 * READY:.0f} %."
            )
    if comparison := results.get("comparison"):
        different = "; ".join(comparison["different_settings"]) or "none"
        parts += [
            f"Difference from {comparison['with']}, in points, on the same instructions. Settings that differ: {different}.",
            table(list(comparison["datasets"]), _difference_lines(comparison["datasets"])),
        ]
    return "\n\n".join(parts)


def _metric_lines(datasets: dict[str, dict]) -> list[list[str]]:
    columns = list(datasets.values())
    metrics = list(columns[0]["metrics"])
    lines = [["instructions", *(str(len(column["rows"])) for column in columns)]]
    lines += [[metric, *(_percent(column["metrics"][metric]) for column in columns)] for metric in metrics]
    most = [metric for metric in metrics if metric.startswith("maj")][-1]
    for level in sorted({level for column in columns for level in column["levels"]}):
        found = [column["levels"].get(level) for column in columns]
        level = escaped(level)
        lines.append([f"level {level}: instructions", *(str(f["instructions"]) if f else "" for f in found)])
        lines += [
            [f"level {level}: {metric}", *(_percent(f["metrics"][metric]) if f else "" for f in found)]
            for metric in dict.fromkeys(["pass@1", most])
        ]
    return lines


def _difference_lines(datasets: dict[str, dict]) -> list[list[str]]:
    columns = list(datasets.values())
    counts = [next(iter(column.values())) for column in columns]
    lines = [[name.replace("_", " "), *(str(c[name]) for c in counts)] for name in ("instructions", "left_out")]
    for metric in dict.fromkeys(metric for column in columns for metric in column):
        found = [column.get(metric) for column in columns]
        lines.append([metric, *(_percent(f, "difference", "+") if f else "" for f in found)])
    return lines


def _percent(metric: dict[str, float], value: str = "value", sign: str = "") -> str:
    return f"{100 * metric[value]:{sign}.1f} [{100 * metric['low']:{sign}.1f}, {100 * metric['high']:{sign}.1f}]"

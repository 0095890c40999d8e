"""What a run gained: the difference of its accuracy from the start's, with an interval."""

import math
from dataclasses import replace

from ..evaluation.model_index import of_kept_weights
from .curves import evaluated
from .reading import Run


def gains(run: Run) -> list[dict]:
    """Return the measured gains of a run in pass@1 and the largest maj@k, those of paired comparisons first.

    Each has `what`, `difference`, `low` and `high` (of the 95 % interval) in points, and `how` it was measured.
    """
    found = []
    for path, results in run.evaluations.items():
        compared = results.get("comparison", {"datasets": {}})
        for name, metrics in compared["datasets"].items():
            most = [metric for metric in metrics if metric.startswith("maj@")][-1:]
            for metric in dict.fromkeys(["pass@1", *most]):
                values = metrics[metric]
                how = f"paired, on {values['instructions']} questions; {path}, compared with {compared['with']}"
                found.append({"what": f"{metric} on {name}", "how": how} | _points(**_interval(values)))
    kept = replace(run, log=of_kept_weights(run.log))
    for name, measured in evaluated(kept).items():
        if len(measured) > 1:
            first, last = measured[0], measured[-1]
            how = f"step {last[0]} against step {first[0]}: {100 * first[1]:.1f} % and {100 * last[1]:.1f} %"
            found.append({"what": f"pass@1 ({name})", "how": how} | _points(**unpaired(first[1:], last[1:])))
    return found


def unpaired(first: tuple, last: tuple) -> dict[str, float]:
    """Return the difference of two shares with its 95 % interval, from theirs (value, low, high), by Newcombe's method 10.

    It counts the two as measured on different questions: on the same ones it is wider than it need be.
    """
    difference = last[0] - first[0]
    below = math.hypot(last[0] - last[1], first[2] - first[0])
    above = math.hypot(last[2] - last[0], first[0] - first[1])
    return {"difference": difference, "low": difference - below, "high": difference + above}


def _interval(values: dict) -> dict[str, float]:
    return {name: values[name] for name in ("difference", "low", "high")}


def _points(**shares: float) -> dict[str, float]:
    return {name: 100 * share for name, share in shares.items()}

"""From completions to rows, and from rows to what `results.json` holds."""

from collections.abc import Iterable, Sequence

from ..answers.judging import MAX_VOTE_SECONDS, judge_group
from ..answers.reading import after_thinking
from ..self_play.sampler import judge_once
from .metrics import by_level, paired_difference, summarize
from .samples import setting_differences


def score(
    labelled: dict,
    completions: Sequence[str],
    truncated: Sequence[bool] | None = None,
    answer_format: str = "math",
    max_seconds: float = MAX_VOTE_SECONDS,
    thinking_end: str = "",
) -> dict:
    """Return a row (see `metrics.py`), read by the rules of training: a truncated completion has no answer.

    Args:
        labelled (`dict`): An instruction with its true answer, from [`load_labelled`].
        completions, truncated: Shape (n,), as in [`majority_vote`].
        answer_format, max_seconds: As there.
        thinking_end (`str`, *optional*): As in [`after_thinking`].

    Raises:
        ValueError: if the true answer cannot be read.
    """
    truncated = list(truncated or [False] * len(completions))
    texts, abstaining = after_thinking(completions, truncated, thinking_end)
    judged = judge_group(texts, abstaining, answer_format, max_seconds, labelled["true_answer"])
    number_of = {member: number for number, members in enumerate(judged.classes) for member in members}
    return labelled | {
        "answers": list(judged.answers),
        "correct": [int(right) for right in judged.correct],
        "classes": [number_of.get(index) for index in range(len(completions))],
        "truncated": truncated,
        "timed_out": list(judged.timed_out),
    }


def score_all(
    sampler,
    rows: Sequence[dict],
    samples: Iterable[dict],
    answer_format: str,
    max_seconds: float = MAX_VOTE_SECONDS,
    thinking_end: str = "",
) -> list[dict]:
    """Return the scored rows, each judged by one process of the sampler's only: time-outs could differ between them.

    `rows` and `samples`, shape (instructions,), are from [`load_labelled`] and [`as_sample`].
    """

    def score_one(row: dict, sample: dict) -> dict:
        return score(row, sample["completions"], sample["truncated"], answer_format, max_seconds, thinking_end)

    return judge_once(sampler, zip(rows, samples, strict=True), score_one)


def dataset_results(source: str, rows: Sequence[dict]) -> dict:
    """Return the results on one source: its metrics, those of each level, the number of time-outs, and the rows."""
    levels = {level: {"instructions": len(some), "metrics": summarize(some)} for level, some in by_level(rows).items()}
    timeouts = sum(sum(row["timed_out"]) for row in rows)
    results = {"source": source, "metrics": summarize(rows), "levels": levels, "timeouts": timeouts}
    return results | {"rows": list(rows)}


def comparison(results: dict, baseline: dict) -> dict:
    """Return what differs in the settings, and every metric that both have, on the sources that both have."""
    different, datasets = setting_differences(results["settings"], baseline["settings"]), {}
    for name, other in baseline["datasets"].items():
        own = results["datasets"][name]
        metrics = [metric for metric in own["metrics"] if metric in other["metrics"]]
        datasets[name] = {metric: paired_difference(own["rows"], other["rows"], metric) for metric in metrics}
    return {"different_settings": different, "datasets": datasets}


def card_results(dataset: str, metrics: dict[str, dict[str, float]], measured: dict) -> list[dict]:
    """Return every pass@k and maj@k of [`summarize`] as [`add_results`] takes it; `measured` says how."""
    return [
        {
            "dataset": dataset,
            "metric": metric,
            "value": round(values["value"], 4),
            "details": {"interval_95": [round(values["low"], 4), round(values["high"], 4)], **measured},
        }
        for metric, values in metrics.items()
        if "@" in metric
    ]

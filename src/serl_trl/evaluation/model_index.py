"""Results in the metadata of a model card, where the Hub reads them (`model-index`)."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard


# Log key of the step whose weights have come back: what was measured later, before that, is of weights that are gone.
BACK_TO = "sentinel/back_to"


def read_card(path: str | os.PathLike) -> ModelCard:
    """Return the model card; raise `ValueError` if there is none, or its metadata can't be read."""
    if not Path(path).is_file():
        raise ValueError(f"There is no model card {str(path)!r}. Use the folder of a trained model.")
    return ModelCard.load(path)


def add_results(path: str | os.PathLike, results: Sequence[dict]) -> None:
    """Write results into a model card, in the place of earlier ones of the same dataset and metric.

    Args:
        path (`str` or `PathLike`): The card, a README.md with metadata.
        results (`Sequence[dict]`):
            `{"dataset": "gsm8k", "metric": "pass@1", "value": 0.31, "details": {"num_samples": 16}}` each; `value` in
            [0, 1], `details` (how it was measured) may be left out. `dataset` is a name of one's own or of the Hub.

    Raises:
        ValueError: As in [`read_card`].
    """
    card = read_card(path)
    new = [
        EvalResult(
            task_type="text-generation",
            task_name="Text Generation",
            dataset_type=re.sub(r"[^\w./-]+", "-", result["dataset"]),
            dataset_name=result["dataset"],
            metric_type=result["metric"],
            metric_name=result["metric"],
            metric_value=result["value"],
            metric_args=result.get("details"),
        )
        for result in results
    ]
    replaced = {(result.dataset_name, result.metric_type) for result in new}
    kept = [r for r in card.data.eval_results or [] if (r.dataset_name, r.metric_type) not in replaced]
    card.data.model_name = card.data.model_name or Path(path).resolve().parent.name
    card.data.eval_results = [*kept, *new]
    card.save(path)


def evaluated_at(log_history: Sequence[dict], step: int) -> dict:
    """Return all that an evaluation during training has logged at this step, on all datasets; nothing without one."""
    entries = [entry for entry in of_kept_weights(log_history) if entry["step"] == step and _is_of_eval_dataset(entry)]
    return {name: value for entry in entries for name, value in entry.items()}


def of_kept_weights(log_history: Sequence[dict]) -> list[dict]:
    """Return the entries without those of weights that the sentinel has thrown away."""
    kept: list[dict] = []
    for entry in log_history:
        if BACK_TO in entry:
            kept = [earlier for earlier in kept if earlier["step"] <= entry[BACK_TO]]
        kept.append(entry)
    return kept


def went_back(log_history: Sequence[dict], step: int) -> bool:
    """Return whether the sentinel has thrown the weights of this step away."""
    return any(BACK_TO in entry and entry["step"] == step for entry in log_history)


def _is_of_eval_dataset(entry: dict) -> bool:
    """Return whether an entry is what an evaluation logs by itself: with other data a user names another prefix."""
    return any(name.startswith("eval_") and name.endswith("pass@1") for name in entry)


def training_results(trainer) -> list[dict]:
    """Return the last evaluation of a [`SeRLTrainer`] on each dataset, as [`add_results`] takes it.

    If the trainer has loaded its best model at the end, it is the evaluation of that one. One from before the training
    says nothing of the model that came of it.
    """
    history, step = trainer.state.log_history, trainer.state.global_step
    kept_best = trainer.args.load_best_model_at_end and not went_back(history, step)
    best = trainer.state.best_global_step if kept_best else None
    last = {
        entry["results"][0]["dataset"]: entry["results"]
        for entry in of_kept_weights(history)
        if "results" in entry and best in (None, entry["step"]) and (entry["step"] > 0 or step == 0)
    }
    return [result for results in last.values() for result in results]

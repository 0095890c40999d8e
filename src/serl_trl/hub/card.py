"""The model card: what a run adds to that of TRL."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..evaluation.model_index import add_results, read_card, training_results
from ..markdown import code_block, escaped
from .privacy import without_private
from .run_record import RunRecord, make_record


_ROWS = 10  # of the table of a run
_COLUMNS = {"reward": "reward", "self_rewarding/pass_rate": "pass rate", "pool/kept": "kept", "eval_pass@1": "pass@1"}
_BEFORE = "### Framework versions"  # in TRL's template
_LINK = "The instructions that it wrote for itself: "


def write_card(trainer, command: str | None, model_settings: dict) -> None:
    """Write into TRL's fresh model card how a [`SeRLTrainer`] trained the model, and its last evaluation; keep the record."""
    record = make_record(trainer, command, model_settings)
    record.save(trainer.args.output_dir)
    path = Path(trainer.args.output_dir) / "README.md"
    add_training(path, record, trainer.state.log_history)
    if results := training_results(trainer):
        add_results(path, results)


def add_training(path: str | os.PathLike, record: RunRecord, log_history: Sequence[dict]) -> None:
    """Write into TRL's model card, fresh from TRL, how the model was trained."""
    card = read_card(path)
    base_model = escaped(record.base_model)
    text = card.text.replace("[None](https://huggingface.co/None)", f"the local model {base_model}")
    text = text.replace('model="None"', f"model={json.dumps(Path(path).resolve().parent.name)}")
    paragraphs = [
        method(record.settings),
        f"Base model: {base_model}. Seeds: {len(record.seeds)} instructions from {escaped(record.seeds_name)}, whose text "
        "is not given here.",
    ]
    if record.evidence is not None:
        paragraphs += ["### Evidence", record.evidence]
    if record.command is not None:
        paragraphs += ["### Command", code_block(record.command, "bash")]
    recipe = code_block(settings_yaml(record.settings), "yaml")
    paragraphs += [
        "### Recipe",
        "The settings that differ from the defaults:",
        recipe,
        "### Curves",
        curves(log_history),
    ]
    card.text = _insert(text, "\n\n".join(paragraphs))
    card.save(path)


def _insert(text: str, section: str) -> str:
    """Return the card with a section before TRL's heading on versions; at its end if TRL has no such heading any more."""
    before, heading, after = text.partition(_BEFORE)
    return f"{before.rstrip()}\n\n{section}\n\n{heading}{after}".rstrip() + "\n"


def add_repositories(path: str | os.PathLike, model_id: str, dataset_id: str | None) -> None:
    """Write into a model card the repositories of the model and of its instructions, in place of an earlier push's.

    Without a `dataset_id`, an earlier link stays. Raises `ValueError` as in [`read_card`].
    """
    card = read_card(path)
    card.text = re.sub(r'(pipeline\("text-generation", model=)"(?:[^"\\]|\\.)*"', rf'\1"{model_id}"', card.text)
    if dataset_id is not None:
        text = re.sub(rf"^{_LINK}.*\n\n", "", card.text, flags=re.MULTILINE)
        card.text = _insert(text, f"{_LINK}[{dataset_id}](https://huggingface.co/datasets/{dataset_id}).")
        card.data.datasets = [dataset_id]
    card.save(path)


def method(settings: dict) -> str:
    """Return the method in two sentences, after the settings that differ from the defaults."""
    own = settings.get("instruction_source", "self_instruction") == "self_instruction"
    source = "The model wrote new instructions after examples from its seeds" if own else "The model took its seeds"
    if settings.get("seed_share"):
        source += ", and took seeds beside them"
    if settings.get("label_source", "majority_vote") == "majority_vote":
        reward = "was rewarded where an answer agreed with the majority of its answers: no true answer was used"
        if settings.get("method") == "trusted":
            reward = "was rewarded where an answer agreed with a majority that slower weights confirmed, never by a true answer"
    elif settings["label_source"] == "true_answer":
        reward = "was rewarded where an answer was the true one"
    else:
        reward = "was rewarded where an answer was the true one of a seed, or agreed with a majority elsewhere"
    estimator = settings.get("advantage_estimator", "grpo")
    return (
        f"{source}, answered each of them many times, and {reward}. "
        f"Those that it found too easy or too hard were left out, and the others trained it (advantages: `{estimator}`)."
    )


def curves(log_history: Sequence[dict]) -> str:
    """Return a table of reward, pass rate, kept instructions and pass@1 over the steps, some ten rows of each."""
    logged: dict[int, dict] = {}
    for entry in log_history:
        logged.setdefault(entry["step"], {}).update(entry)
    shown = set()
    for name in ("reward", "eval_pass@1"):
        steps = [step for step in logged if name in logged[step]]
        shown |= {steps[round(row * (len(steps) - 1) / (_ROWS - 1))] for row in range(_ROWS) if steps}
    rows = [[str(step), *(_number(logged[step].get(name)) for name in _COLUMNS)] for step in sorted(shown)]
    header = ["step", *_COLUMNS.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def settings_yaml(settings: dict) -> str:
    """Return settings as YAML that a card may show."""
    return without_private(yaml.safe_dump(settings, sort_keys=False)).strip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

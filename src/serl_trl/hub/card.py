"""The model card: what a run adds to that of TRL."""

import json
import os
import re
from collections.abc import Sequence

import yaml

from ..evaluation.card import read_card
from .record import RunRecord, iteration_folders, without_private


_ROWS = 10  # of the table of a run
_COLUMNS = {
    "reward": "reward",
    "self_rewarding/pass_rate": "pass rate",
    "pool/kept": "kept",
    "eval_reward": "accuracy",
}
_BEFORE = "### Framework versions"  # in TRL's template
_LINK = "The instructions that it wrote for itself: "


def add_training(path: str | os.PathLike, record: RunRecord, histories: Sequence[Sequence[dict]]) -> None:
    """Write into TRL's model card how the model was trained.

    Args:
        path (`str` or `PathLike`): The card, fresh from TRL.
        record ([`RunRecord`]): What the run was.
        histories (`Sequence`): `log_history` of each iteration's trainer state.
    """
    card = read_card(path)
    text = card.text.replace("[None](https://huggingface.co/None)", f"the local model `{record.base_model}`")
    section = "\n\n".join([*_training(record), "### Curves", curves(histories)])
    card.text = text.replace(_BEFORE, f"{section}\n\n{_BEFORE}", 1)
    card.save(path)


def add_repositories(path: str | os.PathLike, model_id: str, dataset_id: str | None) -> None:
    """Write into a model card where it is pushed to, and the dataset of its instructions if there is one.

    Args:
        path (`str` or `PathLike`): The card, which may hold an earlier push's.
        model_id (`str`): The model's repository, e.g. `"me/mine"`.
        dataset_id (`str`, *optional*): That of the instructions; without it, an earlier link stays.

    Raises:
        ValueError: As in [`read_card`].
    """
    card = read_card(path)
    text = re.sub(r'(pipeline\("text-generation", model=)"[^"]*"', rf'\1"{model_id}"', card.text)
    if dataset_id is not None:
        text = re.sub(rf"^{_LINK}.*\n\n", "", text, flags=re.MULTILINE)
        link = f"{_LINK}[{dataset_id}](https://huggingface.co/datasets/{dataset_id})."
        card.text = text.replace(_BEFORE, f"{link}\n\n{_BEFORE}", 1)
        card.data.datasets = [dataset_id]
    else:
        card.text = text
    card.save(path)


def method(settings: dict) -> str:
    """Return the method in two sentences, after the settings that differ from the defaults."""
    own = settings.get("instruction_source", "self_instruction") == "self_instruction"
    source = "The model wrote new instructions after examples from its seeds" if own else "The model took its seeds"
    if settings.get("label_source", "majority_vote") == "majority_vote":
        reward = "was rewarded where an answer agreed with the majority of its answers: no true answer was used"
    else:
        reward = "was rewarded where an answer was the true one"
    estimator = settings.get("advantage_estimator", "grpo")
    return (
        f"{source}, answered each of them many times, and {reward}. "
        f"Those that it found too easy or too hard were left out, and the others trained it (advantages: `{estimator}`)."
    )


def curves(histories: Sequence[Sequence[dict]]) -> str:
    """Return a table of reward, pass rate, kept instructions and accuracy over the steps, some ten rows of each log.

    Args:
        histories (`Sequence`): `log_history` of each iteration's trainer state.
    """
    rows = []
    for iteration, history in enumerate(histories, start=1):
        logged: dict[int, dict] = {}
        for entry in history:
            logged.setdefault(entry["step"], {}).update(entry)
        steps = {
            step
            for name in ("reward", "eval_reward")
            for step in _spread([step for step in logged if name in logged[step]], _ROWS // len(histories))
        }
        where = [str(iteration)] if len(histories) > 1 else []
        rows += [
            [*where, str(step), *(_number(logged[step].get(name)) for name in _COLUMNS)] for step in sorted(steps)
        ]
    header = [*(["iteration"] if len(histories) > 1 else []), "step", *_COLUMNS.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def histories(run: str | os.PathLike, last: Sequence[dict]) -> list[Sequence[dict]]:
    """Return the log of each self-play iteration of a run; `last`, the trainer's, if the run has but one.

    Args:
        run (`str` or `PathLike`): The run's folder.
        last (`Sequence[dict]`): `log_history` of the trainer.
    """
    states = [folder / "trainer_state.json" for folder in iteration_folders(run)]
    finished = [json.loads(path.read_text(encoding="utf-8")) for path in states if path.is_file()]
    return [state["log_history"] for state in finished] or [last]


def recipe(settings: dict) -> str:
    """Return settings as YAML that a card may show."""
    return without_private(yaml.safe_dump(settings, sort_keys=False)).strip()


def _training(record: RunRecord) -> list[str]:
    """Return the paragraphs on method, seeds, command and recipe."""
    paragraphs = [
        method(record.settings),
        f"Base model: `{record.base_model}`. Seeds: {len(record.seeds)} instructions from `{record.seeds_name}`, whose "
        "text is not given here.",
    ]
    if record.command is not None:
        paragraphs += ["### Command", f"```bash\n{record.command}\n```"]
    settings = f"The settings that differ from the defaults:\n\n```yaml\n{recipe(record.settings)}\n```"
    return [*paragraphs, "### Recipe", settings]


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """Return at most `count` steps, at least 2 of as many, evenly spread with the first and the last."""
    count = max(count, 2)
    if len(steps) <= count:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

"""What the cards tell about a run, written into its folder so that a later push knows it too."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from ..files import written_whole


# The leading underscore keeps it out of `push_to_hub`, which skips `_*`: it holds the seeds' text.
RECORD_FILE = "_run.json"

# No part of how the model came to be: where it lies, who may write it, what is shown, what follows from the rest.
_NOT_IN_RECIPE = {
    "accelerator_config",
    "debug",
    "disable_tqdm",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_token",
    "logging_dir",
    "model_init_kwargs",
    "output_dir",
    "pad_to_multiple_of",
    "push_to_hub",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
    "steps_per_generation",
}


@dataclass(frozen=True)
class RunRecord:
    """What the cards tell about a run beside its log.

    Attributes:
        base_model (`str`): Name on the Hub, or that of a local folder without the folders above it.
        seeds_name (`str`): Name of the seeds' file or dataset.
        seeds (`list[str]`): The seeds' text; it is there to be kept out of what is pushed.
        settings (`dict`): The settings that differ from their defaults.
        command (`str`, *optional*): The command that trained, if it was one.
    """

    base_model: str
    seeds_name: str
    seeds: list[str]
    settings: dict
    command: str | None = None

    def save(self, run: str | os.PathLike) -> None:
        """Write the record into the run's folder."""
        with written_whole(Path(run) / RECORD_FILE) as path:
            path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, run: str | os.PathLike) -> "RunRecord":
        """Return the record of a run.

        Raises:
            ValueError: if the run has none, or a broken one.
        """
        path = Path(run) / RECORD_FILE
        if not path.is_file():
            raise ValueError(
                f"{str(path)!r} is missing, which says what the seeds are, and no seed may be pushed. Push without "
                "push_instructions, or train again."
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} is no record of a run ({error}). Push without push_instructions."
            ) from error


def changed_settings(settings) -> dict:
    """Return the fields of a dataclass that differ from their defaults, as YAML takes them.

    Left out are those that say nothing about the model, such as `output_dir`, and those that hold a token.
    """
    changed = {}
    for field in fields(settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(settings, field.name)
        if field.init and field.name not in _NOT_IN_RECIPE and not field.name.endswith("_token") and value != default:
            changed[field.name] = json.loads(json.dumps(value, default=str))  # enumerations become their texts
    return changed


def iteration_folders(run: str | os.PathLike) -> list[Path]:
    """Return the folders of a run's self-play iterations in order, none for a run of one."""
    return sorted(Path(run).glob("_iteration-[0-9]*"), key=lambda path: int(path.name.rpartition("-")[2]))


def source_name(source) -> str:
    """Return the name of a source of rows: of a file without its folders, of a dataset on the Hub as it is."""
    if not isinstance(source, (str, os.PathLike)):
        return "a dataset in memory"
    return Path(source).name if Path(source).exists() else str(source)


def shown_command(arguments: Sequence[str]) -> str:
    """Return a command line as a card may show it: without tokens and home folders, other paths as given.

    Args:
        arguments (`Sequence[str]`): As in `sys.argv`.
    """
    script, *rest = arguments
    name = Path(script).name
    shown, is_token = ["python", name] if name.endswith(".py") else [name], False
    for argument in rest:
        if is_token:
            is_token = False
            continue
        key, given, _ = argument.partition("=")
        if key.replace("-", "_").endswith("_token"):
            is_token = not given  # then the next argument is the token
        else:
            shown.append(argument)
    return without_private(shlex.join(shown))


def without_private(text: str) -> str:
    """Return a text without the folders of users and the Hub's tokens."""
    home = os.path.expanduser("~")
    homes = [r"/home/[^/\s'\"]+", r"/Users/[^/\s'\"]+", *([re.escape(home)] if home != "/" else [])]
    text = re.sub(rf"(?<![\w.])(?:{'|'.join(homes)})(?![\w-])", "~", text)
    return re.sub(r"\bhf_\w{8,}", "<token>", text)

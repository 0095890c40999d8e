"""What the cards tell about a run, written into its folder so that a later push knows it too."""

import json
import os
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..atomic_write import atomic_write
from ..self_play.parsing import squeeze
from ..self_play.settings import METHODS
from .privacy import is_token


# The leading underscore keeps it out of `push_to_hub`, which skips `_*`: it holds the seeds' text.
RECORD_FILE = "_run.json"

# No part of how the model came to be: where it lies, who may write it, what is shown, what follows from the rest.
_NOT_IN_RECIPE = """
accelerator_config debug disable_tqdm hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy logging_dir
model_init_kwargs output_dir pad_to_multiple_of push_to_hub report_to resume_from_checkpoint run_name save_total_limit
steps_per_generation
""".split()

_VERSIONS = (
    "serl-trl",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "peft",
    "vllm",
    "deepspeed",
    "bitsandbytes",
)


@dataclass(frozen=True)
class RunRecord:
    """What the cards tell about a run beside its log.

    Attributes:
        base_model (`str`): Name on the Hub, or that of a local folder without the folders above it.
        seeds_name (`str`): Name of the seeds' file or dataset.
        seeds (`list[str]`): The seeds' text; it is there to be kept out of what is pushed.
        settings (`dict`): The settings that differ from their defaults.
        command (`str`, *optional*): The command that trained, if it was one.
        evidence (`str`, *optional*): What the start's answers to the seeds say, without the seeds' text.
        versions (`dict[str, str]`, *optional*): Versions of what trained, by the name of the package.
    """

    base_model: str
    seeds_name: str
    seeds: list[str]
    settings: dict
    command: str | None = None
    evidence: str | None = None
    versions: dict[str, str] | None = None

    def save(self, run: str | os.PathLike) -> None:
        """Write the record into the run's folder."""
        with atomic_write(Path(run) / RECORD_FILE) as path:
            path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, run: str | os.PathLike) -> "RunRecord":
        """Return the record of a run; raise `ValueError` if the run has none, or a broken one."""
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
    changed, of_method = {}, METHODS.get(getattr(settings, "method", None), {})
    for field in fields(settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = of_method.get(field.name, default)
        value = getattr(settings, field.name)
        if field.init and field.name not in _NOT_IN_RECIPE and not is_token(field.name) and value != default:
            changed[field.name] = json.loads(json.dumps(value, default=str))  # enumerations become their texts
    return changed


def make_record(trainer, command: str | None, model_settings: dict) -> RunRecord:
    """Return what the cards tell about the run of a [`SeRLTrainer`]; see [`SeRLTrainer.create_model_card`]."""
    from trl.trainer.utils import get_config_model_id

    base_model = get_config_model_id(trainer.model.config)
    return RunRecord(
        base_model=Path(base_model).name if os.path.isdir(base_model) else base_model,
        seeds_name=trainer.seeds.name,
        seeds=[squeeze(seed) for seed in trainer.seeds.instructions],
        settings=model_settings | changed_settings(trainer.args),
        command=command,
        evidence=trainer.trust.evidence and trainer.trust.evidence.describe(),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra
            continue
    return found

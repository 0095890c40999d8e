"""What a checkpoint says of the run that it belongs to, and whether a run that goes on from it is the same."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import xxhash
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..atomic_write import atomic_write
from ..engine.adapters import ADAPTER_SETTINGS
from ..engine.models import sharding
from ..hub.run_record import changed_settings
from ..seeds import Seeds
from ..self_play.prompt import load_template


FACTS_FILE = "serl_run.json"

# Others are another run's: what was learnt and written with them would be mixed with what comes.
_OF_THE_RUN = ("instruction_source", "label_source", "answer_format", "confirm_majority")
# What becomes of a setting that does not simply hold from here on.
_CONSEQUENCES = {
    "processes": "buffered rollouts are dropped, and random numbers are others",
    "num_generations": "surplus and buffered rollouts are dropped",
    "true_answers": "evidence and watched seeds stay those that the run has",
    "seed": "draws from here on are by the new one",
    **dict.fromkeys(("lr_scheduler_type", "max_steps", "warmup_steps"), "the learning rate follows a step later"),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay"), "the optimizer keeps what it was saved with"
    ),
}


def run_facts(args, seeds: Seeds, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return what a run depends on, as JSON takes it and without the text of the seeds.

    Args:
        args ([`SeRLConfig`]): The settings.
        seeds ([`Seeds`]): Those that are used.
        config ([`~transformers.PretrainedConfig`]): Of the model; of the base, if an adapter is trained.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of the model.

    Returns:
        `dict`: `run`, what names the run, and `settings`, what may be changed on the way.
    """
    name, text = config.name_or_path, config.get_text_config()
    name = f"weights {_weights_hash(Path(name))}" if os.path.isdir(name) else name
    prompts = [asdict(load_template(args.prompt_template)), tokenizer.chat_template, args.chat_template_kwargs]
    texts = list(seeds.true_answers.items()) if args.label_source != "majority_vote" else seeds.instructions
    run = {
        "model": f"{name} ({config.model_type}, {_listed(text, 'hidden_size', 'num_hidden_layers', 'vocab_size')})",
        "tokenizer": f"one of {len(tokenizer)} tokens ({_hash(sorted(tokenizer.get_vocab().items()))})",
        "seeds": f"{len(texts)} texts ({_hash(sorted(texts))}) in the order {_hash(texts)}",
        "prompt_template": f"one with the content {_hash(prompts)}",
        **{name: getattr(args, name) for name in _OF_THE_RUN},
        "optim": args.optim.removesuffix("_fused"),
        "sharding": sharding(args),
    }
    settings = {key: value for key, value in changed_settings(args).items() if key not in run}
    settings |= {"processes": args.world_size, "learning_rate": args.learning_rate}
    if answers := [answer for answer in seeds.true_answers.values() if answer is not None]:
        settings["true_answers"] = f"{len(answers)} ({_hash(answers)})"
    return json.loads(json.dumps({"run": run, "settings": settings}))  # enumerations become their texts


def trained_parts(trainer) -> dict[str, str]:
    """Say which kind of adapter is trained, and by which optimizer if it was handed over."""
    adapter = getattr(trainer.model, "peft_config", {}).get("default")
    return {
        "adapter": _listed(adapter, *ADAPTER_SETTINGS) if adapter else "none",
        "optimizer": type(trainer.optimizer).__name__ if trainer.optimizer else "that of optim",
    }


def save_facts(checkpoint: str | os.PathLike, facts: dict) -> None:
    """Write what [`run_facts`] returned into a checkpoint."""
    with atomic_write(Path(checkpoint) / FACTS_FILE) as path:
        path.write_text(json.dumps(facts), encoding="utf-8")


def load_facts(checkpoint: str | os.PathLike) -> dict:
    """Return the facts as saved by [`save_facts`]."""
    return json.loads((Path(checkpoint) / FACTS_FILE).read_text(encoding="utf-8"))


def check_same_run(checkpoint: str | os.PathLike, facts: dict) -> None:
    """Raise `ValueError` if a checkpoint is of another run than `facts`, from [`run_facts`], tell of."""
    saved = load_facts(checkpoint)["run"]
    changed = [
        f"{name} was {saved.get(name)} and is {value}"
        for name, value in facts["run"].items()
        if saved.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{str(checkpoint)!r} is of another run: {'; '.join(changed)}. Set it back to go on, or begin a new run: leave "
            "resume_from_checkpoint out and set output_dir to a new folder."
        )


def describe_changes(checkpoint: str | os.PathLike, facts: dict) -> str | None:
    """Say in a sentence which settings differ from the checkpoint's, and what becomes of them; `None` if none do."""
    saved, settings = load_facts(checkpoint)["settings"], facts["settings"]
    changes = []
    for name in sorted(saved.keys() | settings.keys()):
        old, new = (values.get(name, "the default") for values in (saved, settings))
        if old != new:
            consequence = f" ({_CONSEQUENCES[name]})" if name in _CONSEQUENCES else ""
            changes.append(f"{name} was {old} and is {new}{consequence}")
    if not changes:
        return None
    return f"{checkpoint} was saved with other settings, and those of now hold from here on: {'; '.join(changes)}."


def _listed(config, *names: str) -> str:
    values = {name: getattr(config, name, None) for name in names}
    return ", ".join(f"{name} {sorted(value) if isinstance(value, set) else value}" for name, value in values.items())


def _weights_hash(folder: Path) -> str:
    """Return a hash of the weights in a folder: of each file's size, first and last megabyte."""
    digest = xxhash.xxh3_128()
    for path in sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        with path.open("rb") as file:
            digest.update(f"{path.stat().st_size} ".encode() + file.read(2**20))
            file.seek(-min(2**20, path.stat().st_size), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()[:12]


def _hash(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

"""What stays at home: the seeds, whatever may hold one word for word, tokens, and the folders of users.

Trainer, TRL and `serl-trl push` put a run on the Hub. This is the one place that knows what of it may go there.
"""

import os
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ..self_play.parsing import squeeze


# What a model is made of, at the top of a run's folder. Named one by one, since a folder may hold files of the user's.
# Trainer's training_args.bin is not among them: it names folders of this machine.
_PUBLIC_FILES = """
README.md config.json generation_config.json trainer_state.json
model.safetensors model-*-of-*.safetensors model.safetensors.index.json adapter_config.json adapter_model.safetensors
tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json chat_template.jinja
vocab.json vocab.txt merges.txt spiece.model sentencepiece.bpe.model processor_config.json preprocessor_config.json
configuration_*.py modeling_*.py tokenization_*.py
""".split()  # the last line: of models with code of their own

# All that is uploaded, as arguments of `HfApi.upload_folder`: no ledger, completions, checkpoints, all that lies in folders.
PUBLIC_ONLY = {"allow_patterns": _PUBLIC_FILES, "ignore_patterns": ["*/*"]}

# Columns of the ledger that hold seeds: few-shot examples, nearest neighbours, and texts that may say anything.
PRIVATE_COLUMNS = ("parents", "nearest", "completions")


def folded(text: str) -> str:
    """Return a text as it is compared with seeds, whatever its case and white space."""
    return squeeze(text).casefold()


def holds_seed(texts: Iterable[str | None], seeds: Collection[str]) -> bool:
    """Return whether a text has the whole of a seed in it; the seeds are [`folded`]."""
    return any(seed in text for text in map(folded, filter(None, texts)) for seed in seeds)


def check_privacy(config) -> None:
    """Raise `ValueError` for settings of a [`SeRLConfig`] by which Trainer or TRL would push instructions as they are."""
    if config.push_to_hub and config.hub_strategy in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"hub_strategy is {config.hub_strategy.value!r}, and checkpoints hold instructions, which may hold seeds, "
            "which are never pushed. Set hub_strategy to 'every_save' or 'end'."
        )
    if config.log_completions and config.log_completions_hub_repo:
        raise ValueError(
            f"log_completions_hub_repo is {config.log_completions_hub_repo!r}, and the logged prompts would be pushed "
            "there, which may hold seeds, which are never pushed. Leave it out: the completions lie in output_dir."
        )


def is_token(name: str) -> bool:
    """Return whether a setting or an option holds a token."""
    return name.replace("-", "_").endswith("_token")


def shown_command(arguments: Sequence[str]) -> str:
    """Return a command line, as in `sys.argv`, as a card may show it: without tokens and home folders."""
    script, *rest = arguments
    path = Path(script)
    shown = ["python", path.name] if path.suffix == ".py" else [path.name]
    if path.parent.name == "serl_trl":  # as accelerate starts it
        shown = ["serl-trl", "train"]
    rest = iter(rest)
    for argument in rest:
        option, given, _ = argument.partition("=")
        if not is_token(option):
            shown.append(argument)
        elif not given:
            next(rest, None)  # the token
    return without_private(shlex.join(shown))


def without_private(text: str) -> str:
    """Return a text without the folders of users and the Hub's tokens."""
    home = os.path.expanduser("~")
    homes = [r"/home/[^/\s'\"]+", r"/Users/[^/\s'\"]+", *([re.escape(home)] if home != "/" else [])]
    text = re.sub(rf"(?<![\w.])(?:{'|'.join(homes)})(?![\w-])", "~", text)
    return re.sub(r"\bhf_\w{8,}", "<token>", text)

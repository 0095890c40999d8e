"""Prompts: the few-shot request for new instructions, and an instruction to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

import yaml

from ..types import Message


@dataclass(frozen=True)
class PromptTemplate:
    """The prompts of one domain; the file `templates/math.yaml` explains each field."""

    system: str
    user: str
    answer_request: str


def load_template(name_or_path: str) -> PromptTemplate:
    """Read a template shipped with the package (`"math"`) or a YAML file of one's own.

    Raises:
        ValueError: if there is no such template, or it lacks a field or the place for the examples.
    """
    shipped = files("serl_trl").joinpath("templates", f"{name_or_path}.yaml")
    source = shipped if shipped.is_file() else Path(name_or_path)
    if not source.is_file():
        raise ValueError(
            f"prompt_template {name_or_path!r} is neither a template of serl_trl nor a file. Set it to 'math' or to "
            "the path of a YAML file."
        )
    content = yaml.safe_load(source.read_text(encoding="utf-8"))
    names = [field.name for field in fields(PromptTemplate)]
    if not isinstance(content, dict) or sorted(content) != sorted(names):
        raise ValueError(f"prompt_template {name_or_path!r} must hold exactly the keys {', '.join(names)}.")
    if "{examples}" not in content["user"]:
        raise ValueError(f"prompt_template {name_or_path!r}: 'user' has no place for {{examples}}. Add it.")
    return PromptTemplate(**{name: content[name] or "" for name in names})


def few_shot_prompt(examples: Sequence[str], template: PromptTemplate) -> list[Message]:
    """Return the conversation that asks for new instructions after `examples`, as a list that ends in a number."""
    lines = [f"{number}. {example}" for number, example in enumerate(examples, start=1)]
    numbered = "\n".join([*lines, f"{len(examples) + 1}."])
    messages = [{"role": "user", "content": template.user.replace("{examples}", numbered)}]
    return [{"role": "system", "content": template.system}, *messages] if template.system else messages


def answer_prompt(instruction: str, template: PromptTemplate) -> list[Message]:
    """Return the conversation that asks to answer `instruction`, in training and evaluation alike."""
    content = f"{instruction}\n{template.answer_request}" if template.answer_request else instruction
    return [{"role": "user", "content": content}]

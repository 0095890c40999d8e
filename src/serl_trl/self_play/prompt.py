"""Prompts: the few-shot request for new instructions, and an instruction to be answered."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path

import yaml

from .carriers import Prompt


PLACE = "{instruction}"  # in `plain_answer`


@dataclass(frozen=True)
class PromptTemplate:
    """The prompts of one domain; the file `templates/math.yaml` explains each field. Those with a default may be left out."""

    system: str
    user: str
    answer_request: str
    answer_system: str = ""
    thinking_end: str = ""
    plain_answer: str = ""


def load_template(name_or_path: str) -> PromptTemplate:
    """Read a template shipped with the package (`"math"`) or a YAML file of one's own.

    Raises:
        ValueError: if there is no such template, it is no YAML, or it has other fields.
    """
    shipped = files("serl_trl").joinpath("templates", f"{name_or_path}.yaml")
    source = shipped if shipped.is_file() else Path(name_or_path)
    if not source.is_file():
        raise ValueError(
            f"prompt_template {name_or_path!r} is neither a template of serl_trl nor a file. Set it to 'math' or to "
            "the path of a YAML file."
        )
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"prompt_template {name_or_path!r} is no YAML: {error}. Correct it.") from error
    needed = [field.name for field in fields(PromptTemplate) if field.default is MISSING]
    optional = [field.name for field in fields(PromptTemplate) if field.default is not MISSING]
    if not isinstance(content, dict) or not {*needed} <= {*content} <= {*needed, *optional}:
        raise ValueError(
            f"prompt_template {name_or_path!r} has other keys than {', '.join(needed)}. Give it these, and of "
            f"{', '.join(optional)} what it needs."
        )
    for name, text in content.items():
        if not isinstance(text, str | None):
            raise ValueError(f"{name} of prompt_template {name_or_path!r} is {text!r}. Make it a text.")
    if content.get("plain_answer") and PLACE not in content["plain_answer"]:
        raise ValueError(
            f"plain_answer of prompt_template {name_or_path!r} is {content['plain_answer']!r}. Write {PLACE} where the "
            "instruction stands."
        )
    return PromptTemplate(**{name: text or "" for name, text in content.items()})


def few_shot_prompt(examples: Sequence[str], template: PromptTemplate, turns: int = 3) -> Prompt:
    """Return a conversation whose last turn, the model's own, is a list of `examples` that ends in the next number.

    A model that finds itself in the middle of a list goes on with it; asked to continue the user's list, a small one
    answers its questions instead (docs/runs.md). With `plain_answer` it is one text, which ends in the list.

    Args:
        examples (`Sequence[str]`): The few-shot examples.
        template ([`PromptTemplate`]): The prompts.
        turns (`int`, *optional*, defaults to 3):
            3 for system, user and model; 2 where there is no system role, and its prompt begins the user's turn; 1 where
            the model's turn can't be continued, and the list ends the user's turn.
    """
    lines = [f"{number}. {example}" for number, example in enumerate(examples, start=1)]
    system, user, listed = template.system, template.user, "\n".join([*lines, f"{len(examples) + 1}."])
    if template.plain_answer:
        return _paragraphs(system, user, listed)
    if turns < 3:
        system, user = "", _paragraphs(system, user)
    if turns < 2:
        listed, user = "", _paragraphs(user, listed)
    texts = {"system": system, "user": user, "assistant": listed}
    return [{"role": role, "content": text} for role, text in texts.items() if text or role == "user"]


def answer_prompt(instruction: str, template: PromptTemplate) -> Prompt:
    """Return the conversation, or the text, that asks to answer `instruction`, in training and evaluation alike."""
    content = f"{instruction}\n{template.answer_request}" if template.answer_request else instruction
    if template.plain_answer:
        return _paragraphs(template.answer_system, template.plain_answer.replace(PLACE, content))
    messages = [{"role": "user", "content": content}]
    return [{"role": "system", "content": template.answer_system}, *messages] if template.answer_system else messages


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)

"""Formats of answers, a file each: how they are read and compared.

To add one, write its file and name it in `FORMATS`, with its prompts in `templates/NAME.yaml`: vote, reward, true labels and
evaluation all look here.
"""

from functools import lru_cache

from .carriers import Answer, Format
from .choice import CHOICE
from .json import JSON
from .math import MATH
from .number import NUMBER
from .own import is_own, own_format
from .text import TEXT


__all__ = ["FORMATS", "Answer", "Format", "default_template", "find_format", "is_own"]

FORMATS = {"math": MATH, "choice": CHOICE, "text": TEXT, "number": NUMBER, "json": JSON}


@lru_cache
def find_format(answer_format: str) -> Format:
    """Return a format by its name, or the user's own by `module:function`; it imports no module of the user's.

    Raises:
        ValueError: if there is no such format.
    """
    if answer_format in FORMATS:
        return FORMATS[answer_format]
    if is_own(answer_format):
        return own_format(answer_format)
    raise ValueError(
        f"answer_format is {answer_format!r}. Set it to one of {', '.join(FORMATS)}, or to module:function, a function of "
        "yours that reads an answer."
    )


def default_template(answer_format: str) -> str:
    """Return the name of the prompts for a format: its own, or those of `text` for one of the user's."""
    return answer_format if answer_format in FORMATS else "text"

"""What a worker is called for. Texts go back and forth, expressions never: sympy runs on one side only."""

import sys
from functools import lru_cache

from .formats import Answer, find_format, is_own
from .formats.own import load_function
from .reading import parse_answer, parse_true_answer


def load_format(answer_format: str, path: list[str]) -> None:
    """Import the module of a format of the user's, from where the trainer would find it."""
    if is_own(answer_format):
        sys.path[:] = path
        load_function(answer_format)


def read_answer(text: str, is_true: bool, answer_format: str) -> tuple[str, bool] | None:
    """Return the answer's text, and whether there is more of it to compare."""
    answer = _answer(text, is_true, answer_format)
    return None if answer is None else (answer.text, bool(answer.expressions))


def equal_answers(first: tuple[str, bool], second: tuple[str, bool], answer_format: str) -> bool:
    """Compare the answers that were read in two texts."""
    return find_format(answer_format).equal(_answer(*first, answer_format), _answer(*second, answer_format))


@lru_cache(maxsize=256)
def _answer(text: str, is_true: bool, answer_format: str) -> Answer | None:
    return (parse_true_answer if is_true else parse_answer)(text, answer_format)

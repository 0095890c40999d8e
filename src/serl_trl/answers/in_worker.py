"""What a worker is called for. Texts go back and forth, expressions never: sympy runs on one side only."""

import sys
from functools import lru_cache

import cloudpickle

from .comparing import answers_equal
from .reading import PARSERS, Answer, parse_answer, parse_true_answer


_loaded: dict[str, bytes] = {}


def load_format(answer_format: str, parser: bytes, path: list[str]) -> None:
    """Know a format as the trainer does."""
    if _loaded.get(answer_format) != parser:
        sys.path[:] = path
        PARSERS[answer_format] = cloudpickle.loads(parser)
        _loaded[answer_format] = parser
        _answer.cache_clear()


def read_answer(text: str, is_true: bool, answer_format: str) -> tuple[str, bool] | None:
    """Return the answer's text, and whether there is more of it to compare."""
    answer = _answer(text, is_true, answer_format)
    if answer is not None and not isinstance(answer.text, str):
        raise ValueError(f"The text of an Answer is {answer.text!r}. Make it a str.")
    return None if answer is None else (answer.text, bool(answer.expressions))


def equal_answers(first: tuple[str, bool], second: tuple[str, bool], answer_format: str) -> bool:
    """Compare the answers that were read in two texts."""
    return answers_equal(_answer(*first, answer_format), _answer(*second, answer_format))


@lru_cache(maxsize=256)
def _answer(text: str, is_true: bool, answer_format: str) -> Answer | None:
    return (parse_true_answer if is_true else parse_answer)(text, answer_format)

"""The format `number`: one number, whatever its unit."""

import re
from math import isclose, isfinite

from .carriers import Answer, Format
from .finding import last_box, said_answer, without_commands


_TOLERANCE = 1e-6  # of the larger of two numbers
_DIGITS = 15  # of a double
_WORDS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SPACE = "\u2009"  # thin, between thousands
_LATEX = {"{,}": ",", "\\,": _SPACE, "\\!": "", "\\%": "%", "\\$": "$", "\u00a0": _SPACE, "\u202f": _SPACE, "−": "-"}
_COMMAND = re.compile(r"\\(?!text|math|times|cdot|circ)[a-z]", re.IGNORECASE)  # \sqrt{2}, 2\pi: formulas, not units
_DEGREES = re.compile(r"\^\s*+\{?\\circ\}?")
_TIMES_TEN = re.compile(r"(?<=\d)\s*+(?:×|x|\*|\\times|\\cdot)\s*+10\s*+\^\s*+\{?(-?\d++)\}?")
_POWER = re.compile(r"(?:(?<![\w.,])[\d.,]++\s*+)?\^\s*+(?:\{[^{}]*\}|-?\w*+)")  # of a unit, or with its number
# `$1,234.50`, `-3.2e5`, `5 million`; not what is part of a name, a fraction, a power or a version: x2, 1/2, 10², 1.2.3.
# `++` never goes back over what it has matched.
_NUMBER = re.compile(
    rf"""
    (?:(?<![\w)\]}}])((?<![\w)\]}}]\s)-\s|[-+]))?[$€£¥₹]?
    (?<![\w./])(\d{{1,3}}(?:[,'{_SPACE}]\d{{3}}(?!\d))++|\d++|(?=\.\d))(\.\d++)?+
    (e[+-]?\d++)?+(?:\s*+({"|".join(_WORDS)})\b)?+
    (?!\s*/\s*\d|\.\d|[²³])
    """,
    re.IGNORECASE | re.VERBOSE,
)


def _numbers(text: str) -> list[float]:
    for written, plain in _LATEX.items():
        text = text.replace(written, plain)
    text = _POWER.sub("", _TIMES_TEN.sub(r"e\1", _DEGREES.sub("", without_commands(text))))
    return [_value(*found) for found in _NUMBER.findall(text)]


def _value(sign: str, digits: str, decimals: str, power: str, word: str) -> float:
    digits = "".join(filter(str.isdecimal, digits)) or "0"
    value = float(f"{sign.strip()}{digits}{decimals}{power}") + 0.0  # no -0
    return value * _WORDS[word.lower()] if word else value


def _read(completion: str) -> Answer | None:
    """Return the one number of the last box; else the first after "the answer is"; else the last of the completion."""
    box = last_box(completion)
    if box is not None:
        numbers = _numbers(box)
        found = numbers if len(numbers) == 1 and not _COMMAND.search(box) else []
    else:
        found = _numbers(said_answer(completion) or "")[:1] or _numbers(completion)[-1:]
    return Answer(f"{found[0]:.{_DIGITS}g}") if found and isfinite(found[0]) else None


def _quick_equal(first: str, second: str) -> bool:
    """Compare within the tolerance. In a vote a class is what lies so near to its first answer, the most frequent one."""
    try:
        return isclose(float(first), float(second), rel_tol=_TOLERANCE)
    except ValueError:  # a true answer that took too long to read is compared as it is written
        return first == second


NUMBER = Format(_read, _quick_equal, true_form="one number, such as 1,234.5 or 12 km")

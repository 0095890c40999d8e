"""The format `math`: numbers and formulas, read and compared by math-verify, in a worker."""

import re
from decimal import Decimal

from .carriers import Answer, Format


_PLAIN = re.compile(r"-?(?=[\d.]{1,15}$)\d+(\.\d{1,6})?")  # digits that survive math-verify's floats and its rounding


def _read(completion: str) -> Answer | None:
    from .expressions import read  # here, since sympy takes two seconds to import, and only workers need it

    return read(completion)


def _quick_equal(first: str, second: str) -> bool | None:
    """Compare by text, or as numbers such as `-12` or `0.5`, short enough to need no math-verify."""
    if first == second:
        return True
    if _PLAIN.fullmatch(first) and _PLAIN.fullmatch(second):
        return Decimal(first) == Decimal(second)
    return None


def _equal(first: Answer, second: Answer) -> bool:
    """Return whether two answers mean the same: by text, as plain numbers, else by math-verify."""
    quick = _quick_equal(first.text, second.text)
    if quick is not None:
        return quick
    from .expressions import expressions_equal

    return expressions_equal(first, second)


MATH = Format(_read, _quick_equal, _equal, probe="\\boxed{1}", true_form="a number or as \\boxed{...}")

"""Say whether two answers are equal; with reading.py, the one door to math-verify."""

import re
from decimal import Decimal

import sympy
from math_verify import verify
from sympy.concrete.expr_with_limits import ExprWithLimits

from .reading import Answer


_BASE = re.compile(r"\d_\{?(\d+)\}?$")  # "52_8", "101_{2}": math-verify drops the base
_PLAIN = re.compile(r"-?(?=[\d.]{1,15}$)\d+(\.\d{1,6})?")  # digits that survive math-verify's floats and its rounding


def is_plain(text: str) -> bool:
    """Return whether an answer is a number such as `-12` or `0.5`, short enough to be compared without math-verify."""
    return bool(_PLAIN.fullmatch(text))


def answers_equal(first: Answer, second: Answer) -> bool:
    """Return whether two answers mean the same: by text, as plain numbers, else by math-verify in either order.

    Sympy may take for ever and any memory; a vote calls this in a [`Worker`].
    """
    if first.text == second.text:
        return True
    if is_plain(first.text) and is_plain(second.text):
        return Decimal(first.text) == Decimal(second.text)
    if not first.expressions or not second.expressions:
        return False
    bases = [_BASE.search(answer.text) for answer in (first, second)]
    if all(bases) and bases[0][1] != bases[1][1]:
        return False
    if first.expressions == second.expressions or _differ_as_numbers(first.expressions[0], second.expressions[0]):
        return first.expressions == second.expressions
    one, other = list(first.expressions), list(second.expressions)
    # Both orders: math-verify reads an equation on the prediction's side differently from the gold's.
    return verify(one, other, timeout_seconds=None) or verify(other, one, timeout_seconds=None)


def _differ_as_numbers(first, second) -> bool:
    """Whether both are real numbers that are apart, by their first digits: `9^{9^9}` is never written out.

    Numbers near 0 are apart as others are, where math-verify rounds to six digits after the point.
    """
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in (first, second)):
        return False
    if first.has(ExprWithLimits) or second.has(ExprWithLimits):
        return False  # digits of integrals and sums can be wrong
    percent = first.has(sympy.UnevaluatedExpr) or second.has(sympy.UnevaluatedExpr)  # 5 % equals 0.05, and 5 as well
    try:
        one, other = [(number.doit() if percent else number).evalf() for number in (first, second)]
    except (ArithmeticError, ValueError):  # more digits are needed than evalf goes for
        return False
    if not (one.is_Float and other.is_Float):  # infinite, complex
        return False
    largest = max(abs(one), abs(other))
    if largest < 1e-3:
        return bool(abs(one - other) > 1e-6 * largest)
    return not percent and bool(abs(one - other) > 1e-5 * max(largest, 1))

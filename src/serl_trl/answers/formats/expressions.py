"""Formulas by math-verify; this file is the one door to it. Sympy may take for ever and any memory: workers import it."""

import re

import sympy
from math_verify import parse, verify
from sympy.concrete.expr_with_limits import ExprWithLimits

from .carriers import Answer


_BARE_NUMERATOR = re.compile(r"\\([dt]?frac)\s*(\\(?!sqrt|[dt]?frac|text|math|left)[a-zA-Z]+)\s*")
_BASE = re.compile(r"\d_\{?(\d+)\}?$")  # "52_8", "101_{2}": math-verify drops the base


def read(completion: str) -> Answer | None:
    """Return the answer of a completion, the last that math-verify finds in it; `None` if there is none."""
    # math-verify reads "\frac\pi2" as a fraction of "\" and "p".
    completion = _BARE_NUMERATOR.sub(r"\\\1{\2}", completion)
    expressions = parse(completion, parsing_timeout=None)
    if not expressions:
        return None
    written = [expression for expression in expressions if isinstance(expression, str)]
    text = written[-1] if written else str(expressions[-1])
    # math-verify writes "100%" as "100", and means 1 by it as well.
    percent = isinstance(expressions[0], sympy.Basic) and expressions[0].has(sympy.UnevaluatedExpr)
    return Answer(text=f"{text}%" if percent and text[-1:].isdigit() else text, expressions=tuple(expressions))


def expressions_equal(first: Answer, second: Answer) -> bool:
    """Return whether two answers mean the same by math-verify, in either order."""
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

"""Say whether two answers are equal; with reading.py, the one guarded door to math-verify."""

import re
from functools import lru_cache

import sympy
from math_verify import verify

from .reading import Answer, timeout_seconds


_BASE = re.compile(r"\d_\{?(\d+)\}?$")  # "52_8", "101_{2}": math-verify drops the base
_LARGEST_EXPONENT = 10_000  # beyond, numbers have thousands of digits and are compared by their form only


def answers_equal(first: Answer, second: Answer) -> bool:
    """Return whether two answers mean the same, by text, else by math-verify in either order.

    Never raises and takes at most twice the time-out of 2 s; a pair that takes longer counts as different.
    """
    if first.text == second.text:
        return True
    if not first.expressions or not second.expressions:
        return False
    bases = [_BASE.search(answer.text) for answer in (first, second)]
    if all(bases) and bases[0][1] != bases[1][1]:
        return False
    if _is_huge(first) or _is_huge(second):
        return any(
            one == other
            for one in first.expressions
            for other in second.expressions
            if not isinstance(one, str) and not isinstance(other, str)
        )
    if _differ_though_small(first, second):
        return False
    one, other, seconds = list(first.expressions), list(second.expressions), timeout_seconds()
    # Both orders: math-verify reads an equation on the prediction's side differently from the gold's.
    return verify(one, other, timeout_seconds=seconds) or verify(other, one, timeout_seconds=seconds)


def _differ_though_small(first: Answer, second: Answer) -> bool:
    """Whether both are numbers near 0 that differ, but not in the six digits after the point that math-verify rounds to."""
    numbers = [answer.expressions[0] for answer in (first, second)]
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in numbers):
        return False
    one, other = (sympy.N(number.doit()) for number in numbers)
    if not (one.is_Float and other.is_Float):  # zero, infinite, complex: there math-verify is exact
        return False
    largest = max(abs(one), abs(other))
    return bool(largest < 1e-3 and abs(one - other) > 1e-6 * largest)


@lru_cache(maxsize=4096)
def _is_huge(answer: Answer) -> bool:
    """Whether evaluating the answer could take for ever: huge or stacked powers, factorials, long sums."""
    return any(
        _is_huge_node(node)
        for expression in answer.expressions
        if isinstance(expression, sympy.Basic)
        for node in sympy.preorder_traversal(expression)
    )


def _is_huge_node(node: sympy.Basic) -> bool:
    if isinstance(node, sympy.Pow):
        exponent = node.exp
        if exponent.is_Integer:
            return abs(int(exponent)) > _LARGEST_EXPONENT
        return bool(exponent.is_number and exponent.has(sympy.Pow, sympy.factorial) and node.base.is_number)
    if isinstance(node, sympy.factorial):
        return node.args[0].is_number and not (node.args[0].is_Integer and int(node.args[0]) <= _LARGEST_EXPONENT)
    return isinstance(node, (sympy.Sum, sympy.Product))

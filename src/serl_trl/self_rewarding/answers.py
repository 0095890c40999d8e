"""The one guarded door to math-verify: read the answer of a completion, and say whether two answers are equal."""

import threading
from dataclasses import dataclass, field
from functools import lru_cache

import sympy
from math_verify import parse, verify


_TIMEOUT_SECONDS = 2  # an honest pair takes milliseconds; two huge powers would take math-verify's 5 s, each way
_LARGEST_EXPONENT = 10_000  # beyond, numbers have thousands of digits and are compared by their form only


@dataclass(frozen=True)
class Answer:
    """An answer as it was written, e.g. `"\\frac{1}{2}"`, and the expressions that math-verify reads in it."""

    text: str
    expressions: tuple = field(compare=False)  # matrices of sympy have no hash


def _timeout() -> int | None:
    # math-verify's time-outs are alarm signals, which exist in the main thread only.
    return _TIMEOUT_SECONDS if threading.current_thread() is threading.main_thread() else None


@lru_cache(maxsize=4096)
def parse_answer(completion: str) -> Answer | None:
    """Return the final answer of a completion, or `None` if none can be read.

    Only the completion is read, never the question: a number of the question is not an answer.

    Args:
        completion (`str`): The completion's text; the last `\\boxed{}` wins over other formulas and numbers.
    """
    expressions = parse(completion, parsing_timeout=_timeout())
    if not expressions:
        return None
    written = [expression for expression in expressions if isinstance(expression, str)]
    return Answer(text=written[-1] if written else str(expressions[-1]), expressions=tuple(expressions))


def answers_equal(first: Answer, second: Answer) -> bool:
    """Return whether two answers mean the same, by text, else by math-verify in either order.

    Never raises and takes at most twice the time-out of 2 s; a pair that takes longer counts as different.
    """
    if first.text == second.text:
        return True
    if _is_huge(first) or _is_huge(second):
        return any(
            one == other
            for one in first.expressions
            for other in second.expressions
            if not isinstance(one, str) and not isinstance(other, str)
        )
    one, other, seconds = list(first.expressions), list(second.expressions), _timeout()
    # Both orders: math-verify reads an equation on the prediction's side differently from the gold's.
    return verify(one, other, timeout_seconds=seconds) or verify(other, one, timeout_seconds=seconds)


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

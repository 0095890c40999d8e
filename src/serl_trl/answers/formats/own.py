"""A format of the user's: `my_module:read_answer`, a function from a completion's text to a hashable answer or `None`.

Its code runs in workers only, as sympy does.
"""

import re
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module, invalidate_caches

from .carriers import Answer, Format


_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")  # my_package.my_module:read_answer


def is_own(answer_format: str) -> bool:
    """Return whether a format is named `module:function`."""
    return isinstance(answer_format, str) and bool(_NAME.fullmatch(answer_format))


def own_format(name: str) -> Format:
    """Return the format of `module:function`."""
    return Format(partial(_read, name), _quick_equal, _equal, true_form=f"{name} reads it", bare_first=True)


@lru_cache
def load_function(name: str) -> Callable:
    """Import `module:function`, in a worker.

    Raises:
        ValueError: if that fails, or if it is no function.
    """
    module, _, function = name.partition(":")
    invalidate_caches()  # the file may be younger than this process
    try:
        found = getattr(import_module(module), function, None)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"answer_format is {name!r}, and importing {module!r} raises {type(error).__name__}: {error}. Put "
            f"{module.partition('.')[0]}.py into the working directory, or correct it."
        ) from error
    if not callable(found):
        raise ValueError(f"answer_format is {name!r}, and {module!r} has no function {function!r}. Correct the name.")
    return found


def _read(name: str, completion: str) -> Answer | None:
    """Call the user's function.

    Raises:
        ValueError: with the traceback, if the function raises, or if nothing can be done with what it returns.
    """
    try:
        value = load_function(name)(completion)
        if value is None or value != value:  # NaN equals nothing, itself neither
            return None
        hash(value)
        text = value if isinstance(value, str) else repr(value)
        if " at 0x" in text and not isinstance(value, str):
            raise TypeError(f"{text} is no answer that can be shown. Give its class a __repr__, or return a text.")
    except MemoryError:  # over the budget
        raise
    except Exception:
        raise ValueError(traceback.format_exc()) from None
    return Answer(text.encode("utf-8", "backslashreplace").decode(), (value,))


def _quick_equal(first: str, second: str) -> bool | None:
    return True if first == second else None


def _equal(first: Answer, second: Answer) -> bool:
    return bool(first.expressions == second.expressions)

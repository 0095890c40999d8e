"""An answer, and what a format of answers can do."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """An answer as it was written, e.g. `"\\frac{1}{2}"`, and what it is compared by where its text is not enough.

    Without expressions, answers are compared by their texts.
    """

    text: str
    expressions: tuple = field(default=(), compare=False)  # of sympy, or the value of a user's function


@dataclass(frozen=True)
class Format:
    """How answers of one format are read and compared.

    Attributes:
        read (`Callable[[str], Answer | None]`): From a completion to its answer, `None` if there is none to read.
        quick_equal (`Callable[[str, str], bool | None]`):
            Compares the texts of two answers at once, in the trainer's process; `None` where only `equal` can say.
        equal (`Callable[[Answer, Answer], bool]`, *optional*): Compares answers with expressions, in a worker.
        probe (`str`, *optional*):
            A completion with the answer `1`, where `equal` may be slow: what is slow to compare with it is to blame itself.
        true_form (`str`): How a true answer is to be written, for the error where it can't be read.
        bare_first (`bool`): Whether a true answer is read as it is before it is read in a box.
    """

    read: Callable[[str], Answer | None]
    quick_equal: Callable[[str, str], bool | None]
    equal: Callable[[Answer, Answer], bool] | None = None
    probe: str | None = None
    true_form: str = "a text"
    bare_first: bool = False

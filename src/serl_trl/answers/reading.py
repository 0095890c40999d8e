"""Read the answer of a completion.

To add a format of answers, write a function from a completion to an [`Answer`] or `None` and name it in `PARSERS` at the
end of this file: vote, reward and evaluation all read answers here. Where a format needs its own prompts, add
`templates/NAME.yaml` under the same name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import sympy
from math_verify import parse


_BARE_NUMERATOR = re.compile(r"\\([dt]?frac)\s*(\\(?!sqrt|[dt]?frac|text|math|left)[a-zA-Z]+)\s*")


@dataclass(frozen=True)
class Answer:
    """An answer as it was written, e.g. `"\\frac{1}{2}"`, and the expressions that math-verify reads in it.

    Without expressions, answers are equal where their texts are.
    """

    text: str
    expressions: tuple = field(default=(), compare=False)  # matrices of sympy have no hash


def answer_parser(answer_format: str) -> Callable[[str], Answer | None]:
    """Return what reads a format's answers, or raise `ValueError` if there is no such format."""
    if answer_format not in PARSERS:
        raise ValueError(f"answer_format is {answer_format!r}. Set it to one of {', '.join(PARSERS)}.")
    return PARSERS[answer_format]


def parse_answer(completion: str, answer_format: str = "math") -> Answer | None:
    """Return the final answer of a completion, or `None` if none can be read.

    Only the completion is read, never the question: a number of the question is not an answer. A completion can be
    written so that this takes for ever, or any memory; a vote calls it in a [`Worker`].

    Args:
        completion (`str`): The completion's text; the last `\\boxed{}` wins over all else.
        answer_format (`str`, *optional*, defaults to `"math"`):
            `"math"` for numbers and formulas, read by math-verify, or `"choice"` for one of the letters A to J.

    Raises:
        ValueError: if there is no such format.
    """
    return answer_parser(answer_format)(completion)


def parse_true_answer(true_answer: str, answer_format: str = "math") -> Answer:
    """Return a true answer as data sets write it: bare, in `\\boxed{}`, or after `####` as in GSM8K.

    Raises:
        ValueError: if it cannot be read, since every completion would silently be wrong.
    """
    # Boxed, since bare LaTeX such as `2\\sqrt{3}` is read in part only.
    boxed = true_answer if "\\boxed" in true_answer else f"\\boxed{{{true_answer.rpartition('####')[2].strip()}}}"
    answer = parse_answer(boxed, answer_format) or parse_answer(true_answer, answer_format)
    if answer is None:
        form = "a letter from A to J" if answer_format == "choice" else "a number or as \\boxed{...}"
        raise ValueError(f"No answer can be read in {true_answer!r}. Write it as {form}.")
    return answer


def _parse_math(completion: str) -> Answer | None:
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


# What may stand around a letter: `(C)`, `**C**`, `\text{C}`, `option C`; a text may follow it only after punctuation.
# `*+` never goes back over what it has matched, so that a long run of blanks takes no longer than it is.
_OPEN = r"(?:\\\w+\{|[\s(\[*$\\]|(?i:option|choice)\b)*+"
_CHOICE_BOX = re.compile(r"\\boxed\{([^}]*)\}+")
_CHOICE_LETTER = re.compile(rf"{_OPEN}([A-Ja-j])(?:\W*|\s*[).:,\-]\W.*)", re.DOTALL)
_CHOICE_SAID = re.compile(
    rf"(?i:\banswer(?: option| choice)?\s*+(?:is\b|:))[\s:*]*+{_OPEN}([A-J]|(?<=\()[a-j](?=\)))(?=\s*(?:[)\]}}.,:;*$]|$))",
    re.MULTILINE,
)
_CHOICE_LINE = re.compile(r"[(\[*]*([A-J])[)\].*]*(?:(?<=[).\]])\s+\S.*)?")


def _parse_choice(completion: str) -> Answer | None:
    """Return the letter, A to J, of the option that the completion chooses, as in MMLU-Pro (arXiv 2406.01574).

    The last box wins; else the last "answer is (C)" or "Answer: C"; else a line such as "C" or "(C) seven", if there is
    only one letter with such a line: several are a list of the options.
    """
    closed = completion[: completion.rfind("}") + 1]  # thousands of open boxes would each be searched to the end
    if boxes := _CHOICE_BOX.findall(closed):
        found = _CHOICE_LETTER.fullmatch(boxes[-1].strip())
        return Answer(found[1].upper()) if found else None
    if said := _CHOICE_SAID.findall(completion):
        return Answer(said[-1].upper())
    lines = [_CHOICE_LINE.fullmatch(line.strip()) for line in completion.splitlines()]
    letters = {line[1] for line in lines if line}
    return Answer(letters.pop()) if len(letters) == 1 else None


PARSERS = {"math": _parse_math, "choice": _parse_choice}

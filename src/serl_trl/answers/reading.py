"""Read the answer of a completion, or a true answer as data sets write it."""

from collections.abc import Sequence

from .formats import Answer, find_format


def after_thinking(
    completions: Sequence[str], truncated: Sequence[bool], thinking_end: str
) -> tuple[list[str], list[bool]]:
    """Return the texts that answers are read from, and which completions abstain, each of shape (n,).

    That is what follows the last `thinking_end`, e.g. `"</think>"`, and those without one abstain like the truncated ones.
    Without a `thinking_end` it is the whole completion.
    """
    if not thinking_end:
        return list(completions), list(truncated)
    parts = [completion.rpartition(thinking_end) for completion in completions]
    abstaining = [cut or not marker for (_, marker, _), cut in zip(parts, truncated, strict=True)]
    return [answer for _, _, answer in parts], abstaining


def parse_answer(completion: str, answer_format: str = "math") -> Answer | None:
    """Return the final answer of a completion, or `None` if none can be read.

    Only the completion is read, never the question: a number of the question is not an answer. A completion can be
    written so that this takes for ever, or any memory; a vote calls it in a [`Worker`].

    Args:
        completion (`str`): The completion's text; the last `\\boxed{}` wins over all else.
        answer_format (`str`, *optional*, defaults to `"math"`):
            `"math"` for numbers and formulas, read by math-verify, `"choice"` for one of the letters A to J, `"text"` for a
            few words, `"number"` for a number with a unit, `"json"` for a JSON value, or `"module:function"` of the user's.

    Raises:
        ValueError: if there is no such format, or with what a function of the user's raises.
    """
    return find_format(answer_format).read(completion)


def parse_true_answer(true_answer: str, answer_format: str = "math") -> Answer:
    """Return a true answer as data sets write it: bare, in `\\boxed{}`, or after `####` as in GSM8K.

    Raises:
        ValueError: if it cannot be read, since every completion would silently be wrong.
    """
    known = find_format(answer_format)
    # Boxed, since bare LaTeX such as `2\\sqrt{3}` is read in part only.
    boxed = true_answer if "\\boxed" in true_answer else f"\\boxed{{{true_answer.rpartition('####')[2].strip()}}}"
    forms = (true_answer, boxed) if known.bare_first else (boxed, true_answer)
    answer = known.read(forms[0]) or known.read(forms[1])
    if answer is None:
        raise ValueError(f"No answer can be read in {true_answer!r}. Write it as {known.true_form}.")
    return answer

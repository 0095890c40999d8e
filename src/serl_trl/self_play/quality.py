"""The rules that an instruction must meet by itself."""

import re
import string
from collections.abc import Sequence


# Words that ask for something a text model can't see or make (SeRL's list, from Self-Instruct).
BLOCKED_WORDS = (*"image images graph graphs picture pictures file files map maps draw plot".split(), "go to")
_LATEX_STARTS = "$\\"  # "$x$ apples ..." and "\\(x\\) ..." are sound instructions


def rejection_reason(
    instruction: str,
    *,
    min_words: int = 4,
    max_words: int = 150,
    blocked_words: Sequence[str] = BLOCKED_WORDS,
    ascii_only: bool = True,
) -> str | None:
    """Return why an instruction is unsound, or `None` if it is sound.

    Args:
        instruction (`str`): The instruction's text.
        min_words (`int`, *optional*, defaults to `4`): Fewest words, separated by white space.
        max_words (`int`, *optional*, defaults to `150`): Most words.
        blocked_words (`Sequence[str]`, *optional*): Words that may not occur as whole words, in any case.
        ascii_only (`bool`, *optional*, defaults to `True`): Whether the first character must be ASCII.

    Returns:
        `str | None`: The first that applies of `"too_short"`, `"too_long"`, `"blocked_word"`, `"write_a_program"`,
        `"leading_punctuation"` and `"non_ascii"`.

    Source: the online filter of SeRL, self-instruction, after Self-Instruct (arXiv 2212.10560). LaTeX-first is allowed.
    """
    words = len(instruction.split())
    if words < min_words:
        return "too_short"
    if words > max_words:
        return "too_long"
    if blocked_words and re.search(rf"\b(?:{'|'.join(map(re.escape, blocked_words))})\b", instruction, re.IGNORECASE):
        return "blocked_word"
    instruction = instruction.lstrip()
    if instruction.lower().startswith("write a program"):
        return "write_a_program"
    if instruction and instruction[0] in string.punctuation and instruction[0] not in _LATEX_STARTS:
        return "leading_punctuation"
    if ascii_only and instruction and not instruction[0].isascii():
        return "non_ascii"
    return None

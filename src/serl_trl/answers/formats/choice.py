"""The format `choice`: one of the letters A to J."""

import re
from operator import eq

from .carriers import Answer, Format


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


def _read(completion: str) -> Answer | None:
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


CHOICE = Format(_read, eq, true_form="a letter from A to J")

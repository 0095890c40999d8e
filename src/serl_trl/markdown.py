"""Texts that others wrote, such as names of files, as parts of a Markdown text."""

import re
from collections.abc import Sequence


_SYNTAX = re.compile(r"[\\`*~$#&|<>{}\[\]]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none


def escaped(text: str) -> str:
    """Return a text for a sentence or a table of Markdown, which shows it as it is: no part of it is Markdown or HTML.

    White space is squeezed, since a line break could begin another element.
    """
    return _SYNTAX.sub(r"\\\g<0>", " ".join(text.split()))


def code_block(text: str, language: str) -> str:
    """Return a text as a Markdown block of code, which no backticks in it can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with a column for each name, its cells padded; each line is a label and its cells."""
    lines = [["", *map(escaped, names)], *lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "| " + " | ".join("-" * width for width in widths) + " |", *padded[1:]])

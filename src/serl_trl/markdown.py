"""Texts that others wrote, such as names of files, as parts of a Markdown text."""

import re


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

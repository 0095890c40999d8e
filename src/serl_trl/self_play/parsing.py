"""Split a reply into the instructions that it lists."""

import re


# A list number at the start of a line: "10. ", "10) ", "**10.** ". Elsewhere a number belongs to the text.
_NUMBER = re.compile(r"^[ \t]*(?:\*\*)?\d{1,3}[.)](?:\*\*)?[ \t]+", re.MULTILINE)
_BARE_NUMBER = re.compile(r"^[ \t]*(?:\*\*)?\d{1,3}[.)](?:\*\*)?[ \t]*$", re.MULTILINE)


def squeeze(text: str) -> str:
    """Return `text` with each run of white space as one blank, and none at the ends; nothing else changes."""
    return " ".join(text.split())


def parse_instructions(reply: str) -> list[str]:
    """Return the instructions of a reply that continues a numbered list.

    The prompt ends in the next number ("9."), so the text before the reply's first own number is an instruction too;
    it is left out where it ends in a colon ("Here are some more:"). Numbers count at the start of a line only. White
    space is squeezed, case is never changed.

    Args:
        reply (`str`): The completion's text, e.g. `"What is 2 + 3?\\n10. What is 4 - 1?"`.

    Returns:
        `list[str]`: The instructions in order, empty ones left out; `[]` for an empty reply.

    Source: SeRL, self-instruction; the published code splits at a number anywhere and lower-cases.
    """
    first, *rest = _NUMBER.split(_BARE_NUMBER.sub("\n1. ", reply))
    instructions = [squeeze(first)] if not first.rstrip().endswith(":") else []
    return [text for text in instructions + [squeeze(part) for part in rest] if text]

"""Where a completion says its answer. Each search takes time that grows with the text, whatever is in it."""

import re


_SAID = re.compile(r"\banswer\s*+(?:is\b|:)[\s:*]*+([^\n]*+)", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text\w*|math\w+)\s*\{([^{}]*)\}")
_BRACE = re.compile(r"\\?[{}]")


def last_box(completion: str) -> str | None:
    """Return what stands in the last `\\boxed{}`: nothing if it is not closed, `None` if there is none."""
    _, box, rest = completion.rpartition("\\boxed{")
    if not box:
        return None
    depth = 1
    for brace in _BRACE.finditer(rest):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)  # `\{` is a sign, and opens nothing
        if depth == 0:
            return rest[: brace.start()].strip()
    return ""


def said_answer(completion: str) -> str | None:
    """Return the rest of the line after the last "the answer is" or "Answer:", `None` if there is none."""
    found = _SAID.findall(completion)
    return found[-1].strip() if found else None


def without_commands(text: str) -> str:
    """Return a text without LaTeX's commands for how words look: `\\text{Paris}` is `Paris`."""
    return _COMMAND.sub(r"\1", text)

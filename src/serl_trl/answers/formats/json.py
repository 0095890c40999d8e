"""The format `json`: a JSON value, whatever the order of its keys, its white space and the form of its numbers."""

import json
import re
from operator import eq

from .carriers import Answer, Format
from .finding import last_box


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON.")


def _number(text: str) -> int | float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _refuse(text)
    return int(value) if value.is_integer() else value  # 1.0 is 1


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_refuse)
_OPEN = re.compile(r"[{\[]")


def _whole(text: str):
    """Return `(value,)` if the text is one JSON value, else `()`."""
    try:
        return (_DECODER.decode(text.strip()),)
    except ValueError:
        return ()


def _last_inside(text: str):
    """Return `(value,)` of the last object or array that stands in the text, else `()`."""
    found, start = (), 0
    while opened := _OPEN.search(text, start):
        try:
            value, start = _DECODER.raw_decode(text, opened.start())
            found = (value,)
        except ValueError:
            start = opened.end()
    return found


def _read(completion: str) -> Answer | None:
    """Return the last code block or box, if it is a value as a whole; else the last object or array; else the whole."""
    blocks = [re.sub(r"\A[ \t]*\w*[ \t]*\n", "", block) for block in completion.split("```")[1::2]]
    try:
        found = _whole(blocks[-1]) if blocks else ()
        found = found or _whole(last_box(completion) or "") or _last_inside(completion) or _whole(completion)
        if not found:
            return None
        text = json.dumps(found[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:  # nested deeper than Python reads
        return None
    return Answer(text.encode("utf-8", "backslashreplace").decode())  # half of a surrogate pair is taken by no file


JSON = Format(_read, eq, true_form='JSON, a text in quotes: "Paris"', bare_first=True)

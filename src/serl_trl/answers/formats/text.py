"""The format `text`: a name, a date or a few words, compared as in SQuAD (arXiv 1606.05250)."""

import re
import unicodedata
from operator import eq

from .carriers import Answer, Format
from .finding import last_box, said_answer, without_commands


_MOST_WORDS = 10  # of a completion that is taken for an answer as a whole
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=\w)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def normalize(text: str) -> str:
    """Return a text in lower case, in Unicode's form NFKC, without articles, punctuation and needless white space."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", without_commands(text)).casefold())
    text = _THOUSANDS.sub("", text.replace("−", "-"))
    return " ".join(_ARTICLE.sub("", _PUNCTUATION.sub(_kept, text)).split())


def _kept(found: re.Match) -> str:
    """Keep what tells answers apart: 3.5 is not 35, -5 is not 5, C++ and C# are not C."""
    sign, text, (start, end) = found[0], found.string, found.span()
    before, after = text[start - 1 : start], text[end : end + 1]
    of_number = after.isdecimal() and (before.isdecimal() or sign in "-." and not before.isalnum())
    of_name = sign in "+#" and (before.isalnum() or before == "+")
    mark = unicodedata.category(sign).startswith("M")  # part of a letter, in many scripts
    return sign if of_number or of_name or mark else ""


def _read(completion: str) -> Answer | None:
    """Return what the last box holds; else what follows "the answer is"; else the whole, if it is a few words."""
    found = last_box(completion)
    if found is None:
        found = said_answer(completion)
    if found is None and len(completion.split()) <= _MOST_WORDS:
        found = completion
    text = normalize(found or "")
    return Answer(text) if any(sign.isalnum() for sign in text) else None


TEXT = Format(_read, eq, true_form="a few words or as \\boxed{...}")

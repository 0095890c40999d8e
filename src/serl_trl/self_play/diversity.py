"""Keep an instruction only if it differs from all before it."""

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.tokenize import tokenize


class DiversityFilter:
    """ROUGE-L similarity to everything added, as exact as `rouge_score` and fast enough for 10,000 texts.

    Tokens are those of `rouge_score` without stemming; the longest common subsequence comes from `rapidfuzz`, on texts
    whose tokens are replaced by one character each.

    Args:
        texts (`Iterable[str]`, *optional*): Texts to add at once.
        threshold (`float`, *optional*, defaults to `0.7`):
            Highest ROUGE-L F1 that still counts as different, in [0, 1]: exactly 0.7 stays.

    Raises:
        ValueError: if `threshold` is not in [0, 1].

    Source: SeRL, self-instruction, after Self-Instruct (arXiv 2212.10560).
    """

    def __init__(self, texts: Iterable[str] = (), threshold: float = 0.7):
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}. Set it to 0.7 as in the paper.")
        self.threshold = threshold
        self.texts: list[str] = []
        self._known: set[str] = set()  # the same texts, to look one up
        self._encoded: list[str] = []  # texts[i], one character a token
        self._characters: dict[str, str] = {}  # token -> its character
        self.add(texts)

    def add(self, texts: Iterable[str]) -> None:
        """Add texts to compare against."""
        for text in texts:
            self.texts.append(text)
            self._known.add(text)
            for token in tokenize(text, None):
                # After 1.1 million different tokens characters are used again; a false match is then as unlikely.
                self._characters.setdefault(token, chr(1 + len(self._characters) % sys.maxunicode))
            self._encoded.append(self._encode(text))

    def similarity(self, candidates: Sequence[str]) -> np.ndarray:
        """Return the highest ROUGE-L F1 of each candidate to anything added, shape (len(candidates),), in [0, 1].

        Equal to `rouge_score`'s to 1e-12. All zeros while nothing has been added.
        """
        return self._f1(candidates).max(axis=1, initial=0.0)

    def nearest(self, candidate: str) -> tuple[str | None, float]:
        """Return the most similar text added (the earliest of equals; `None` if none has a word in common) and its F1."""
        f1 = self._f1([candidate])[0]
        index = int(f1.argmax()) if len(f1) else 0
        return (self.texts[index], float(f1[index])) if f1.any() else (None, 0.0)

    def is_different(self, candidate: str, rouge_l: float) -> bool:
        """Return whether a text of this similarity to the `nearest` one may be added; with threshold 1 each may."""
        return self.threshold == 1.0 or (rouge_l <= self.threshold and candidate not in self._known)

    def _f1(self, candidates: Sequence[str]) -> np.ndarray:
        """ROUGE-L F1 of each pair, shape (len(candidates), len(self.texts))."""
        encoded = [self._encode(text) for text in candidates]
        if not encoded or not self._encoded:
            return np.zeros((len(encoded), len(self._encoded)))
        common = cdist(encoded, self._encoded, scorer=LCSseq.similarity, dtype=np.int32).astype(np.float64)
        lengths = np.array([len(text) for text in encoded])[:, None]
        added_lengths = np.array([len(text) for text in self._encoded])[None, :]
        # With P = common / length and R = common / added_length, 2PR / (P + R) = 2 common / (length + added_length).
        return 2.0 * common / np.maximum(lengths + added_lengths, 1)

    def _encode(self, text: str) -> str:
        return "".join(self._characters.get(token, "\0") for token in tokenize(text, None))  # \0: in no text added

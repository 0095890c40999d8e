"""Keep an instruction only if it differs from all before it."""

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.tokenize import tokenize


class DiversityFilter:
    """ROUGE-L similarity to everything added, as exact as `rouge_score` and fast enough for 100,000 texts.

    Tokens are those of `rouge_score` without stemming; the longest common subsequence comes from `rapidfuzz`, on texts
    whose tokens are replaced by one character each. It has at most the tokens that two texts share, in any order, which
    an index counts for all texts at once. Only texts that could be the nearest by that count are compared.

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
        self._encoded: list[str] = []  # texts[i], one character a token
        self._lengths = array("i")  # of texts[i], in tokens
        self._index: dict[str, array] = {}  # "c": the texts with that token; "cc": those that have it twice
        self._characters: dict[str, str] = {}  # token -> its character
        self.add(texts)

    def add(self, texts: Iterable[str]) -> None:
        """Add texts to compare against."""
        for text in texts:
            # After 1.1 million different tokens characters are used again; a false match is then as unlikely.
            encoded = "".join(
                self._characters.setdefault(token, chr(1 + len(self._characters) % sys.maxunicode))
                for token in tokenize(text, None)
            )
            for key in _keys(encoded):
                self._index.setdefault(key, array("i")).append(len(self.texts))
            self.texts.append(text)
            self._encoded.append(encoded)
            self._lengths.append(len(encoded))

    def similarity(self, candidates: Sequence[str]) -> np.ndarray:
        """Return the highest ROUGE-L F1 of each candidate to anything added, shape (len(candidates),), in [0, 1].

        Equal to `rouge_score`'s to 1e-12. All zeros while nothing has been added.
        """
        return np.array([self.nearest(candidate)[1] for candidate in candidates])

    def nearest(self, candidate: str) -> tuple[str | None, float]:
        """Return the most similar text added (the earliest of equals; `None` if none has a word in common) and its F1."""
        encoded = self._encode(candidate)
        with_token = [self._index[key] for key in _keys(encoded) if key in self._index]
        if not with_token:
            return None, 0.0
        shared = np.bincount(np.concatenate(with_token), minlength=len(self.texts))  # tokens, with each text
        # With P = common / length and R = common / added_length, 2PR / (P + R) = 2 common / (length + added_length).
        highest = 2.0 * shared / (len(encoded) + np.array(self._lengths))
        # Some 0.1 ms for 500; the nearest of them rules others out.
        first = np.flatnonzero(highest >= 0.8 * highest.max())[:500]
        rivals = np.flatnonzero(highest >= self._f1(encoded, first).max())
        f1 = self._f1(encoded, rivals)
        return self.texts[rivals[f1.argmax()]], float(f1.max())

    def is_different(self, candidate: str, rouge_l: float) -> bool:
        """Return whether a text of this similarity to the `nearest` one may be added; with threshold 1 each may."""
        # The same text has an F1 of 1, or of 0 where ROUGE-L finds no word in it.
        known = rouge_l == 0.0 and candidate in self.texts
        return self.threshold == 1.0 or (rouge_l <= self.threshold and not known)

    def _f1(self, encoded: str, indices: np.ndarray) -> np.ndarray:
        """ROUGE-L F1 of an encoded candidate to some of the texts, shape (len(indices),)."""
        added = [self._encoded[index] for index in indices.tolist()]
        common = cdist([encoded], added, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return 2.0 * common / (len(encoded) + np.array(self._lengths)[indices])

    def _encode(self, text: str) -> str:
        return "".join(self._characters.get(token, "\0") for token in tokenize(text, None))  # \0: in no text added


def _keys(encoded: str) -> Iterator[str]:
    """Return the index's keys of a text, one a token: "abaa" gives "a", "aa", "aaa" and "b"."""
    return (character * (n + 1) for character, count in Counter(encoded).items() for n in range(count))

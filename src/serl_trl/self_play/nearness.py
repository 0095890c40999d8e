"""Keep an instruction only if it looks like the seeds."""

import math
import random
import re
import sys
from collections.abc import Sequence

import numpy as np

from .parsing import squeeze


ORDER = 4  # longest gram, in characters
BACKOFF = 4.0  # characters that the estimate from the next shorter gram is worth
SLACK = math.log(1.1)  # each limit lies 10 % beyond the seeds' quantile
FEW = 5  # seeds; with 5, a limit lies twice as far from the median as their quantile
MIXTURES = 100  # texts of three seeds' words
# "1,000,000.5" and "3.14" are one number each, "3/4" and "(1,2)" two.
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+")
_DIGITS = re.compile(r"\d+")


class NearnessGate:
    """Whether an instruction looks like the seeds: its characters, its length and its numbers.

    Four measures of a text have limits that are fitted to the seeds alone:

    - the loss per character under a model of the seeds: interpolated grams of up to four characters, in lower case, each
      run of digits as one 0. At most the 95 % quantile of the seeds, each under a model of all others. A loss below one
      bit counts as one: seeds of one shape ("What is 23 + 48?") have nearly none;
    - the length in characters, each run of digits as one: between the quantiles of 2.5 and 97.5 %;
    - the largest number, in digits: at most the 95 % quantile, and with no digit more than that has;
    - the count of numbers in digits: between the quantiles of 2.5 and 97.5 %.

    Each limit then moves outwards by 10 %, and by 5 / n of its distance from the median of the n seeds, on a logarithmic
    scale: the extremes of few seeds are less than those of their kind. A digit more makes a number another kind:
    beside seeds of two digits, most of what a real model was trained on had numbers from 100 to 107 (docs/runs.md).

    Args:
        seeds (`Sequence[str]`): The user's instructions, in any order; a repeated one counts once.
        level (`float`, *optional*, defaults to `1.0`):
            How far the limits move outwards, as a multiple of that, > 0. What is admitted at a level is admitted at
            every higher one.

    Attributes:
        binds (`bool`):
            Whether the gate tells the seeds' kind from others. It does not if it admits half of 100 texts, or more, that
            each consist of the words of three seeds, shuffled: the seeds are then too broad, too few or both.

    Raises:
        ValueError: if there are no seeds, or `level` is not above 0.
    """

    def __init__(self, seeds: Sequence[str], level: float = 1.0):
        if not len(seeds):
            raise ValueError("seeds is empty, and there is nothing to be near to. Pass the user's instructions.")
        if not 0.0 < level < math.inf:
            raise ValueError(f"level is {level}. Set it to a finite number above 0, e.g. to 1.")
        seeds = sorted({squeeze(seed) for seed in seeds})
        self._num_seeds = len(seeds)
        self._model = _CharacterModel([_shape(seed) for seed in seeds])
        measures = np.array([self._measures(seed, is_seed=True) for seed in seeds])
        limits = [_limits(*row, level) for row in zip(measures.T, (0.05, 0.025, 0.05, 0.025), strict=True)]
        self._lowest, self._highest = np.transpose(limits)
        self._lowest[[0, 2]] = 0.0  # a small loss is near, and so are small numbers
        digits = _digits(_quantile(measures[:, 2], 0.05)) + max(level - 1.0, 0.0)
        self._highest[2] = min(self._highest[2], digits * math.log(10.0) - 1e-9)
        # Fewer than three seeds show no kind.
        self.binds = len(seeds) >= 3 and sum(map(self.admits, _mixtures(seeds))) < MIXTURES / 2

    def admits(self, instruction: str) -> bool:
        """Return whether all measures of an instruction are within their limits."""
        measures = self._measures(instruction)
        return bool(np.all((self._lowest <= measures) & (measures <= self._highest)))

    def describe(self) -> dict[str, float]:
        """Return the number of different seeds and the limits, lengths in characters, each run of digits as one."""
        lowest, highest = (np.exp(np.clip(limits, 0.0, 700.0)) for limits in (self._lowest, self._highest))
        limits = {
            "bits_per_character": highest[0],
            "shortest": lowest[1],
            "longest": highest[1],
            "largest_number": highest[2],
            "fewest_numbers": lowest[3] - 1,
            "most_numbers": highest[3] - 1,
        }
        return {"seeds": self._num_seeds} | {name: round(float(limit), 2) for name, limit in limits.items()}

    def _measures(self, text: str, is_seed: bool = False) -> np.ndarray:
        """Return the logarithms of loss, length, largest number and count of numbers + 1, at least 0, shape (4,)."""
        numbers, shape = numbers_in(text), _shape(text)
        loss = self._model.loss(shape, is_seed)
        return np.log(np.maximum([loss, len(shape), max(numbers, default=0.0), len(numbers) + 1], 1.0))


class _CharacterModel:
    """Interpolated grams of up to four characters; a text has three marks before it and one after it."""

    def __init__(self, texts: Sequence[str]):
        # 0 is the mark, 1 all characters that the texts do not have.
        self.ids = {character: number for number, character in enumerate(sorted(set().union(*texts)), start=2)}
        codes = zip(*(self.codes(text) for text in texts), strict=True)
        self.tables = [np.unique(np.concatenate(code), return_counts=True) for code in codes]

    def codes(self, text: str) -> list[np.ndarray]:
        """Return the contexts of 0 to 3 characters before each character, then these with it: 8 x (len(text) + 1,).

        Each is written as a number with one digit a character, which no two texts of one length share.
        """
        base, length = len(self.ids) + 2, len(text) + 1
        ids = np.array([0] * (ORDER - 1) + [self.ids.get(character, 1) for character in text] + [0], dtype=np.int64)
        contexts = [np.zeros(length, dtype=np.int64)]
        for first in range(ORDER - 2, -1, -1):
            contexts.append(contexts[-1] + ids[first : first + length] * base ** (len(contexts) - 1))
        return contexts + [context * base + ids[ORDER - 1 :] for context in contexts]

    def loss(self, text: str, is_own: bool) -> float:
        """Return the bits per character of a text; if it is one of the model's own, under a model of all others."""
        counts = []
        for code, (known, count) in zip(self.codes(text), self.tables, strict=True):
            places = np.minimum(np.searchsorted(known, code), len(known) - 1)
            seen = np.where(known[places] == code, count[places], 0)
            if is_own:
                _, inverse, own = np.unique(code, return_inverse=True, return_counts=True)
                seen = seen - own[inverse]
            counts.append(seen)
        probability = 1.0 / (len(self.ids) + 2)
        for context, gram in zip(counts[:ORDER], counts[ORDER:], strict=True):
            probability = (gram + BACKOFF * probability) / (context + BACKOFF)
        return float(-np.log2(probability).mean())


def numbers_in(text: str) -> list[float]:
    """Return the numbers in digits of a text, in order."""
    # Beyond its largest, a float is infinite, which has no distance from a median.
    return [min(float(number.replace(",", "")), sys.float_info.max) for number in _NUMBER.findall(text)]


def _shape(text: str) -> str:
    return _DIGITS.sub("0", squeeze(text).lower())


def _limits(measures: np.ndarray, outside: float, level: float) -> tuple[float, float]:
    """Return the lowest and highest value, for seeds of which at most the share `outside` lies beyond each, shape (n,)."""
    n, median = len(measures), np.median(measures)
    lowest, highest = -_quantile(-measures, outside), _quantile(measures, outside)
    below, above = SLACK + FEW / n * (median - lowest), SLACK + FEW / n * (highest - median)
    return lowest - level * below, highest + level * above


def _quantile(measures: np.ndarray, outside: float) -> float:
    """Return the highest value, without the largest ones of which there are at most the share `outside`, shape (n,)."""
    return np.sort(measures)[len(measures) - 1 - int(outside * len(measures))]


def _digits(logarithm: float) -> int:
    """Return how many digits the whole part of a number has, of its logarithm, at least 0."""
    return math.floor(logarithm / math.log(10.0) + 1e-9) + 1


def _mixtures(seeds: Sequence[str]) -> list[str]:
    """Return texts that each consist of the words of three seeds, shuffled."""
    rng = random.Random(0)
    draws = [" ".join(rng.sample(seeds, 3)).split() for _ in range(MIXTURES)]
    return [" ".join(rng.sample(words, len(words))) for words in draws]

"""The instructions at hand: the user's seeds and those that the model wrote and was trained on."""

import random
from collections import deque
from collections.abc import Iterable, Sequence


class InstructionPool:
    """The seeds, and the latest instructions trained on.

    Args:
        seeds (`Sequence[str]`): The user's instructions.
        max_kept (`int`): Most instructions of the run to keep; the oldest go first.
    """

    def __init__(self, seeds: Sequence[str], max_kept: int):
        self.seeds = list(seeds)
        self.examples = self.seeds  # those of them that are drawn
        self.kept: deque[str] = deque(maxlen=max_kept)

    def few_shot_examples(self, rng: random.Random, count: int, max_kept_examples: int) -> list[str]:
        """Draw `count` different examples in random order: up to `max_kept_examples` kept ones, the rest seeds."""
        kept = rng.sample(list(self.kept), min(max_kept_examples, len(self.kept)))
        examples = kept + rng.sample(self.examples, count - len(kept))
        rng.shuffle(examples)
        return examples

    def keep(self, instructions: Iterable[str]) -> None:
        """Add instructions that were handed to the trainer."""
        self.kept.extend(instructions)

    def metrics(self) -> dict[str, float]:
        """Return the sizes, under the glossary's log keys."""
        return {"pool/seeds": float(len(self.seeds)), "pool/kept": float(len(self.kept))}

"""The worlds of benchmarks/learning.py: questions, true answers, and a model that goes wrong in a way of its own."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from make_tiny_model import PAIRS, question, result_of  # noqa: E402


def true_answer(text: str) -> int | None:
    """Return the answer of a question of the small worlds, `None` if it is none."""
    parts = re.fullmatch(r"what is (\d+) (plus|minus) (\d+) \?", " ".join(text.split()))
    return None if parts is None else result_of(int(parts[1]), parts[2], int(parts[3]))


def has_large_number(text: str) -> bool:
    """Return whether an instruction has a number larger than any of the seeds'."""
    return any(int(number) > 9 for number in re.findall(r"\d+", text))


@dataclass(frozen=True)
class World:
    """Questions, and a model to start from.

    The 50 seeds and the 150 held-out questions are the same in all runs.

    Args:
        name (`str`): Of the start model's folder.
        lesson, accuracy: What the start model is taught and where its training stops, as in make_tiny_model.py.
        seeds, held_out: First number, `"plus"` or `"minus"`, and second number of each question.
        true_answer: Returns the answer of an instruction, `None` if it has none.
        is_far: Returns whether an instruction is beyond the seeds; `None` in a world where none is.
        labelled (`int`): How many of the seeds carry their answer for all arms.
        settings (`dict`): Settings that differ from those of the other worlds.
    """

    name: str
    lesson: str = "plain"
    accuracy: float = 0.78
    seeds: list[tuple] = field(default_factory=lambda: random.Random(0).sample(PAIRS, len(PAIRS))[:50])
    held_out: list[tuple] = field(default_factory=lambda: random.Random(0).sample(PAIRS, len(PAIRS))[50:])
    true_answer: Callable[[str], int | None] = true_answer
    is_far: Callable[[str], bool] | None = None
    labelled: int = 0
    settings: dict = field(default_factory=dict)

    def start_model(self, folder: Path) -> Path:
        """Return the folder of the model to start from, made if it is not there."""
        if (self.lesson, self.accuracy) == ("plain", 0.78):
            return ROOT / "tests" / "tiny_model"
        path = folder / f"start-{self.name}"
        if not path.exists():
            script = [sys.executable, str(ROOT / "scripts" / "make_tiny_model.py"), "--lesson", self.lesson]
            script += ["--accuracy", str(self.accuracy), "--output", str(path)]
            subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        return path

    def seed_rows(self, labelled: int) -> dict[str, list]:
        """Return the columns of the seeds, with true answers for the first `labelled` ones."""
        texts = [question(*pair) for pair in self.seeds]
        if not labelled:
            return {"instruction": texts}
        answers = [str(self.true_answer(text)) if place < labelled else None for place, text in enumerate(texts)]
        return {"instruction": texts, "answer": answers}


WORLDS = {
    world.name: world
    for world in (
        World("small"),
        World("weak", accuracy=0.4),
        World("fast", settings={"learning_rate": 2e-4}),  # three times the rate that suits the model
        World("drift", "drift", 0.72, is_far=has_large_number),
        World("wrong_class", "wrong_class", 0.85, labelled=30),
    )
}

"""Evaluate the tiny model in a process of its own: `torchrun tests/run_evaluation.py OUTPUT_DIR`.

Each process writes the metrics to OUTPUT_DIR/rank-N.json: of completions that depend on the question alone, and of sampled
ones with their texts, for three questions and for one.
"""

import json
import sys
from pathlib import Path

from conftest import TINY_MODEL, tiny_config, tiny_seeds
from datasets import Dataset

from serl_trl import SeRLTrainer
from serl_trl.engine.sampler import TrainerSampler
from serl_trl.self_play.carriers import Completion


QUESTIONS = Dataset.from_dict(
    {"question": ["what is 2 plus 3 ?", "what is 9 minus 4 ?", "what is 1 plus 1 ?"], "answer": ["5", "5", "2"]}
)


class Scripted(TrainerSampler):
    """A sampler whose first completion says 5, and whose others say 2."""

    def sample(self, prompt_ids, num_completions, settings=None):
        texts = ["the answer is 5"] + ["the answer is 2"] * (num_completions - 1)
        return [[Completion(text, (), False) for text in texts] for _ in prompt_ids]


class Recording(TrainerSampler):
    """A sampler that keeps the texts that it has sampled."""

    def sample(self, *args, **kwargs):
        groups = super().sample(*args, **kwargs)
        self.texts = [[completion.text for completion in group] for group in groups]
        return groups


def evaluations(output_dir: Path) -> dict:
    """Return the metrics and the completions of one process."""
    config = tiny_config(output_dir, num_generations_eval=16, temperature=2.0)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), eval_dataset=QUESTIONS)
    trainer.loader.sampler = Scripted(trainer)
    report = {"rank": trainer.accelerator.process_index, "scripted": trainer.evaluate()}
    trainer.loader.sampler = sampler = Recording(trainer)
    report |= {"three": trainer.evaluate(), "texts of three": sampler.texts}
    report |= {"one": trainer.evaluate(QUESTIONS.select([0])), "texts of one": sampler.texts}
    return report


if __name__ == "__main__":
    report = evaluations(Path(sys.argv[1]))
    Path(sys.argv[1], f"rank-{report['rank']}.json").write_text(json.dumps(report))

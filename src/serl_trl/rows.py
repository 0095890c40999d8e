"""The rows that TRL's data loaders deliver: placeholders in training, true ones in evaluation."""

import math
import os

from datasets import Dataset

from .evaluation.data import load_labelled
from .self_instruction.prompt import answer_prompt, load_template
from .serl_config import SeRLConfig


def placeholder_rows(args: SeRLConfig) -> Dataset:
    """Return rows for TRL's data loader, as many as the run takes: one epoch, whose length is `max_steps`."""
    cycle = args.steps_per_generation * args.num_iterations  # batches from one generation to the next
    generations = math.ceil(args.max_steps * args.gradient_accumulation_steps / cycle)
    rows = generations * (args.generation_batch_size // args.num_generations)
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": ""}]] * rows})


def evaluation_rows(source: str | os.PathLike | Dataset, args: SeRLConfig) -> Dataset:
    """Return rows for TRL's evaluation: the prompt of training, and the true answer; for errors see [`load_labelled`]."""
    rows, template = load_labelled(source, answer_format=args.answer_format), load_template(args.prompt_template)
    return Dataset.from_list(
        [
            {
                "prompt": answer_prompt(row["instruction"], template),
                "answer": row["true_answer"],
                "answer_format": args.answer_format,
            }
            for row in rows
        ]
    )

"""The evaluation of a trainer: that of `serl-trl eval`, through the trainer's own engine."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from datasets import Dataset, DatasetInfo

from ..seeds import source_name
from ..self_play.carriers import Completion
from ..self_play.prompt import answer_prompt, load_template
from ..self_play.sampler import Sampler
from .data import data_name, load_labelled
from .metrics import summarize
from .results import score


def labelled_rows(source, answer_format: str) -> Dataset | dict[str, Dataset]:
    """Return labelled instructions as Trainer keeps them; of a dictionary of sources, those of each name.

    Raises:
        ValueError: As in [`load_labelled`].
    """
    if isinstance(source, dict):
        return {name: labelled_rows(part, answer_format) for name, part in source.items()}
    rows = load_labelled(source, answer_format=answer_format)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    name = data_name(source) if isinstance(source, (str, os.PathLike)) else source_name(source)
    return Dataset.from_dict(columns, info=DatasetInfo(dataset_name=name))


def evaluate_trainer(trainer, rows: Dataset, prefix: str = "eval") -> dict[str, float]:
    """Sample answers to all instructions in one call, and log every metric, such as `eval_pass@1`, with its interval.

    It draws from generators of its own, so that training goes on as if there had been no evaluation.

    Args:
        trainer ([`SeRLTrainer`]): The trainer; `num_generations_eval` completions are sampled of each instruction.
        rows ([`~datasets.Dataset`]): From [`labelled_rows`].
        prefix (`str`): What the names of the metrics begin with.
    """
    args, sampler = trainer.args, trainer.loader.sampler
    trainer.model.eval()  # TRL's log looks at it to know what it logs
    with own_generators(args.seed):
        template = load_template(args.prompt_template)
        prompt_ids = sampler.tokenize([answer_prompt(row["instruction"], template) for row in rows])
        groups = sampler.sample(prompt_ids, args.num_generations_eval or args.num_generations)
    summary = summarize(score_all(sampler, list(rows), groups, args.answer_format))
    metrics = {f"{prefix}_{name}": value["value"] for name, value in summary.items()}
    metrics |= {f"{prefix}_{name}_{end}": value[end] for name, value in summary.items() for end in ("low", "high")}
    trainer.log(dict(metrics))
    trainer.control = trainer.callback_handler.on_evaluate(args, trainer.state, trainer.control, metrics)
    return metrics


def score_all(
    sampler: Sampler, rows: Sequence[dict], groups: Sequence[list[Completion]], answer_format: str
) -> list[dict]:
    """Return the scored rows (see `metrics.py`), each judged by one process: time-outs could differ between them."""
    own = []
    for index in range(sampler.rank, len(rows), sampler.num_processes):
        texts = [completion.text for completion in groups[index]]
        truncated = [completion.truncated for completion in groups[index]]
        own.append((index, score(rows[index], texts, truncated, answer_format)))
    return [row for _, row in sorted(sampler.gather(own), key=lambda pair: pair[0])]


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Let the block draw from global generators seeded with `seed`; after it they are as they were before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

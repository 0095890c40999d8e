"""Evaluate a model: serl-trl eval --model M --data FILE [FILE...]

For every instruction it samples --num_samples completions with training's own prompt, reads their answers as training
does, and compares them with the true answer. Interrupted, the same command goes on where it stopped.
"""

import json
from pathlib import Path

from tqdm.auto import tqdm

from ..atomic_write import atomic_write
from .arguments import EvaluationArguments
from .model_index import add_results
from .preparation import Job, prepare
from .report import report
from .results import card_results, comparison, dataset_results, score
from .samples import start_record


def evaluate(args: EvaluationArguments) -> dict:
    """Evaluate a model and return the content of `results.json`.

    Returns:
        `dict`:
            `settings`, `datasets` by name and, with `compare`, `comparison`. Each of `datasets` has `source`, `metrics`
            (see [`summarize`]), `levels` with the same for each level, and `rows` (see `metrics.py`).

    Raises:
        ValueError:
            If data, model, settings or an earlier evaluation in `output_dir` don't go together, before any model is
            loaded.
    """
    return complete(prepare(args))


def complete(job: Job) -> dict:
    """Sample what is missing, write `results.json`, `results.md` and the card, and return the results."""
    args, results = job.args, {"settings": job.settings, "datasets": {}}
    sampled = sample_missing(job)
    for name, data in job.datasets.items():
        recorded = [sampled[name][number] for number in range(len(data.rows))]
        rows = [
            score(labelled, record["completions"], record["truncated"], args.answer_format)
            for labelled, record in zip(data.rows, tqdm(recorded, desc=f"reading {name}", disable=None), strict=True)
        ]
        results["datasets"][name] = dataset_results(data.source, rows)
    if job.baseline:
        results["comparison"] = {"with": args.compare} | comparison(results, job.baseline)
    for name, text in {"results.json": json.dumps(results), "results.md": report(results)}.items():
        with atomic_write(Path(args.output_dir) / name) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")
    if args.write_card:
        add_results(Path(args.model) / "README.md", card_results(results))
    return results


def sample_missing(job: Job) -> dict[str, dict[int, dict]]:
    """Return the records of all sources by their numbers, after sampling what they lack; each is written at once."""
    sample = None
    records = {name: dict(data.done) for name, data in job.datasets.items()}
    for name, data in job.datasets.items():
        start_record(data.record, data.settings, data.done.values())
        if len(data.done) == len(data.rows):
            continue
        sample = sample or _load_engine(job)
        with (
            data.record.open("a", encoding="utf-8") as stream,
            # disable=None: no bar where nobody watches
            tqdm(total=len(data.rows), initial=len(data.done), desc=f"sampling {name}", disable=None) as bar,
        ):
            for number, completions in sample(data.prompt_ids, data.done):
                records[name][number] = {
                    "number": number,
                    "instruction": data.rows[number]["instruction"],
                    "completions": [completion.text for completion in completions],
                    "truncated": [completion.truncated for completion in completions],
                }
                stream.write(json.dumps(records[name][number]) + "\n")
                stream.flush()
                bar.update()
    return records


def _load_engine(job: Job):
    from .engine import load_engine

    longest = max(len(ids) for data in job.datasets.values() for ids in data.prompt_ids)
    return load_engine(job.args, job.tokenizer, longest + job.args.max_completion_length)

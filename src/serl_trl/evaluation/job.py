"""Evaluate a model: serl-trl eval --model M --data FILE [FILE...]

For every instruction it samples --num_samples completions with training's own prompt, reads their answers as training
does, and compares them with the true answer. Interrupted, the same command goes on where it stopped.
"""

import json
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from ..atomic_write import atomic_write
from .arguments import EvaluationArguments
from .data import card_name
from .model_index import add_results
from .preparation import Job, prepare
from .report import report
from .results import card_results, comparison, dataset_results, score_all
from .samples import as_sample, start_samples


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
    with closing(job.sampler):
        sampled = sample_missing(job)
    for name, data in job.datasets.items():
        samples = [sampled[name][number] for number in range(len(data.rows))]
        # disable=None: no bar where nobody watches
        samples = tqdm(samples, desc=f"reading {name}", disable=None)
        rows = score_all(job.sampler, data.rows, samples, args.answer_format)
        results["datasets"][name] = dataset_results(data.source, rows)
    if job.baseline:
        results["comparison"] = {"with": args.compare} | comparison(results, job.baseline)
    for name, text in {"results.json": json.dumps(results), "results.md": report(results)}.items():
        with atomic_write(Path(args.output_dir) / name) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")
    if args.write_card:
        names = ("num_samples", "temperature", "top_p", "max_completion_length")
        measured = {name: getattr(args, name) for name in names}
        for data in results["datasets"].values():
            card = Path(args.model) / "README.md"
            add_results(card, card_results(card_name(data["source"]), data["metrics"], measured))
    return results


def sample_missing(job: Job) -> dict[str, dict[int, dict]]:
    """Return the samples of all sources by their numbers, after drawing what they lack; each is written at once."""
    samples = {name: dict(data.done) for name, data in job.datasets.items()}
    for name, data in job.datasets.items():
        start_samples(data.path, data.settings, data.done.values())
        if len(data.done) == len(data.rows):
            continue
        with (
            data.path.open("a", encoding="utf-8") as stream,
            tqdm(total=len(data.rows), initial=len(data.done), desc=f"sampling {name}", disable=None) as bar,
        ):
            for number, completions in job.sampler.stream(data.prompt_ids, job.args.num_samples, data.done):
                instruction = data.rows[number]["instruction"]
                samples[name][number] = {"number": number, "instruction": instruction} | as_sample(completions)
                stream.write(json.dumps(samples[name][number]) + "\n")
                stream.flush()
                bar.update()
    return samples

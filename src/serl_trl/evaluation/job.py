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
from .preparation import LabelledData, prepare
from .report import report
from .results import card_results, comparison, dataset_results, score_all
from .samples import as_sample, start_samples


def evaluate(args: EvaluationArguments) -> dict:
    """Evaluate a model, write `results.json`, `results.md` and the card, and return the content of `results.json`.

    Returns:
        `dict`:
            `settings`, `datasets` by name and, with `compare`, `comparison`. Each of `datasets` has `source`, `metrics`
            (see [`summarize`]), `levels` with the same for each level, `timeouts` (how many answers took too long), and
            `rows` (see `metrics.py`).

    Raises:
        ValueError:
            If data, model, settings or an earlier evaluation in `output_dir` don't go together, before any model is
            loaded.
    """
    sampler, settings, datasets, baseline = prepare(args)
    results = {"settings": settings, "datasets": {}}
    with closing(sampler):
        for name, data in datasets.items():
            sample_missing(sampler, name, data, args.num_samples)
    for name, data in datasets.items():
        # disable=None: no bar where nobody watches
        samples = tqdm([data.samples[n] for n in range(len(data.rows))], desc=f"reading {name}", disable=None)
        rows = score_all(sampler, data.rows, samples, args.answer_format, thinking_end=settings["thinking_end"])
        results["datasets"][name] = dataset_results(data.source, rows)
    if baseline:
        results["comparison"] = {"with": args.compare} | comparison(results, baseline)
    for name, text in {"results.json": json.dumps(results), "results.md": report(results)}.items():
        with atomic_write(Path(args.output_dir) / name) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")
    if args.write_card:
        measured = {n: settings[n] for n in ("num_samples", "temperature", "top_p", "max_completion_length")}
        for data in results["datasets"].values():
            results_for_card = card_results(card_name(data["source"]), data["metrics"], measured)
            add_results(Path(args.model) / "README.md", results_for_card)
    return results


def sample_missing(sampler, name: str, data: LabelledData, num_samples: int) -> None:
    """Draw the samples that a source lacks; each is written at once."""
    start_samples(data.path, data.settings, data.samples.values())
    if len(data.samples) == len(data.rows):
        return
    with (
        data.path.open("a", encoding="utf-8") as stream,
        tqdm(total=len(data.rows), initial=len(data.samples), desc=f"sampling {name}", disable=None) as bar,
    ):
        for number, completions in sampler.stream(data.prompt_ids, num_samples, set(data.samples)):
            sample = {"number": number, "instruction": data.rows[number]["instruction"]} | as_sample(completions)
            data.samples[number] = sample
            stream.write(json.dumps(sample) + "\n")
            stream.flush()
            bar.update()

"""What an evaluation reads and checks before a model is loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from .. import __version__
from ..engine.models import base_model, check_model, model_length, read_config, weights_version
from ..engine.standalone import StandaloneSampler
from ..output_dir import check_output_dir
from ..self_play.prompt import PromptTemplate, answer_prompt, load_template
from ..training.checks import check_chat_template
from .arguments import EvaluationArguments
from .data import data_name, load_labelled
from .model_index import read_card
from .results import comparison
from .samples import read_samples


@dataclass(frozen=True)
class LabelledData:
    """One of the sources to evaluate on.

    Attributes:
        source (`str`): The file or dataset.
        rows (`list[dict]`): From [`load_labelled`].
        prompt_ids (`list[list[int]]`): The tokens of each row's prompt.
        path (`Path`): The file of its samples.
        settings (`dict`): What they depend on.
        samples (`dict[int, dict]`): The samples by the number of the row: at first, those of an interrupted evaluation.
    """

    source: str
    rows: list[dict]
    prompt_ids: list[list[int]]
    path: Path
    settings: dict
    samples: dict[int, dict]


def prepare(args: EvaluationArguments) -> tuple[StandaloneSampler, dict, dict[str, LabelledData], dict | None]:
    """Return the sampler, the settings for the results, the data by name, and the results to compare with, if any.

    Raises:
        ValueError: if data, model, settings and `output_dir` don't go together.
    """
    check_output_dir(args.output_dir)
    names = [data_name(source) for source in args.data]
    if len(set(names)) < len(names):
        raise ValueError(f"Two of data have the same name: {', '.join(names)}. Rename one, or evaluate it apart.")
    sources = dict(zip(names, args.data, strict=True))
    labelled = {n: load_labelled(source, args.data_column, args.answer_format) for n, source in sources.items()}
    baseline = _read_baseline(args.compare, labelled) if args.compare else None
    if args.write_card:
        read_card(Path(args.model) / "README.md")
    template = load_template(args.prompt_template)
    weights = base_model(args.model) or args.model
    config = read_config(weights, trust_remote_code=args.trust_remote_code)
    check_model(weights, config)
    sampler = StandaloneSampler(args)
    check_chat_template(sampler.tokenizer, args.model, template)
    settings = _settings(args, config, template)
    datasets = {}
    for name, rows in labelled.items():
        prompt_ids = sampler.tokenize([answer_prompt(row["instruction"], template) for row in rows])
        _check_lengths(prompt_ids, rows, name, model_length(config), args.max_completion_length)
        digest = hashlib.sha256(json.dumps([row["instruction"] for row in rows]).encode()).hexdigest()
        own = settings | {"instructions": len(rows), "instructions_sha256": digest}
        path = Path(args.output_dir) / f"{name}.jsonl"
        datasets[name] = LabelledData(sources[name], rows, prompt_ids, path, own, read_samples(path, own))
    settings |= {"answer_format": args.answer_format, "thinking_end": template.thinking_end, "serl_trl": __version__}
    return sampler, settings, datasets, baseline


def _check_lengths(prompt_ids: list, rows: list[dict], name: str, context: int, max_completion_length: int) -> None:
    longest = max(range(len(rows)), key=lambda number: len(prompt_ids[number]))
    room = context - len(prompt_ids[longest])
    if max_completion_length > room:
        raise ValueError(
            f"{name}, row {longest + 1}, {rows[longest]['instruction']!r}: its prompt has {len(prompt_ids[longest])} "
            f"tokens, and with max_completion_length={max_completion_length} that is more than the model's context of "
            f"{context}. " + (f"Set it to at most {room}." if room > 0 else "Leave the row out.")
        )


def _settings(args: EvaluationArguments, config: PretrainedConfig, template: PromptTemplate) -> dict:
    """Return all that the completions depend on, but for the data."""
    names = ("model", "num_samples", "temperature", "top_p", "max_completion_length", "seed", "dtype")
    return {name: getattr(args, name) for name in names} | {
        "chat_template_kwargs": args.chat_template_kwargs,
        "engine": "vllm" if args.use_vllm else "transformers",
        "batch_size": None if args.use_vllm else args.batch_size,
        "answer_request": template.answer_request,
        "answer_system": template.answer_system,
        "plain_answer": template.plain_answer,
        "weights_of": weights_version(args.model, config),
    }


def _read_baseline(path: str, labelled: dict[str, list[dict]]) -> dict:
    """Return the results to compare with, of the names that share an instruction with what is evaluated now."""
    try:
        baseline = json.loads(Path(path).read_text(encoding="utf-8"))
        instructions = {name: {r["instruction"] for r in d["rows"]} for name, d in baseline["datasets"].items()}
        comparison(baseline, baseline)  # it has all that a comparison takes
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"compare is {path!r}, which is no results.json of an evaluation ({error}).") from error
    common = [n for n, rows in labelled.items() if any(r["instruction"] in instructions.get(n, ()) for r in rows)]
    if not common:
        raise ValueError(
            f"compare is {path!r}, with results on {', '.join(instructions)}, which share no instruction with "
            f"{', '.join(labelled)}. Name results on the same data, in files of the same name."
        )
    return baseline | {"datasets": {name: baseline["datasets"][name] for name in common}}

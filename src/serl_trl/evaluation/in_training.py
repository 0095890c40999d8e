"""The evaluation of a trainer: that of `serl-trl eval`, through the trainer's own engine."""

from datasets import Dataset, DatasetInfo

from ..engine.sampling_settings import own_generators
from ..engine.vllm import engine_seed
from ..self_play.prompt import answer_prompt, load_template
from .data import card_name, load_labelled
from .metrics import metric_names, summarize
from .results import card_results, score_all
from .samples import as_sample


def labelled_rows(source, answer_format: str, name: str | None = None) -> Dataset | dict[str, Dataset]:
    """Return labelled instructions as Trainer keeps them: columns `instruction`, `answer` and `level`.

    Of a dictionary of sources it returns those of each name; rows that it has returned it returns again.

    Raises:
        ValueError: As in [`load_labelled`].
    """
    if isinstance(source, dict):
        return {name: labelled_rows(part, answer_format, name) for name, part in source.items()}
    rows = load_labelled(source, answer_format=answer_format)
    rows = [{"answer": row.pop("true_answer")} | row for row in rows]
    return Dataset.from_list(rows, info=DatasetInfo(dataset_name=name or card_name(source)))


def evaluation_rows(source, args) -> Dataset | dict[str, Dataset] | None:
    """Return the labelled instructions that a trainer of these settings evaluates on, `None` without any.

    Raises:
        ValueError:
            As in [`load_labelled`], if the settings ask for an evaluation and there is nothing to evaluate on, or if
            `metric_for_best_model` is none of its metrics.
    """
    if source is None:
        if args.eval_strategy != "no" or args.eval_on_start:
            raise ValueError(
                f"eval_strategy is {args.eval_strategy.value!r} and eval_on_start {args.eval_on_start}, and there is "
                "nothing to evaluate on. Pass eval_dataset (--eval_data), or set them to 'no' and False."
            )
        return None
    rows = labelled_rows(source, args.answer_format)
    parts = [f"{name}_" for name in rows] if isinstance(rows, dict) else [""]
    wanted = args.metric_for_best_model
    known = [
        f"{part}{metric}"
        for part in parts
        for metric in metric_names(args.num_generations_eval or args.num_generations)
    ]
    if wanted is not None and wanted.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model is {wanted!r}. Set it to one of {', '.join(known)}.")
    return rows


def evaluate_trainer(trainer, eval_dataset=None, prefix: str = "eval") -> dict[str, float]:
    """Evaluate a [`SeRLTrainer`] on its `eval_dataset`, on one of these by name, or on another; return what is logged.

    Raises:
        ValueError: As in [`load_labelled`], or if there is nothing to evaluate on.
    """
    own = trainer.eval_dataset
    rows = own if eval_dataset is None else eval_dataset
    if rows is None:
        raise ValueError("There is nothing to evaluate on. Pass eval_dataset, here or to the trainer.")
    if isinstance(rows, str) and isinstance(own, dict):
        rows = own.get(rows, rows)
    if not isinstance(rows, dict):
        return _evaluate_rows(trainer, rows, card_name(rows), prefix)
    metrics = [_evaluate_rows(trainer, part, name, f"{prefix}_{name}") for name, part in rows.items()]
    return {key: value for part in metrics for key, value in part.items()}


def _evaluate_rows(trainer, source, name: str, prefix: str) -> dict[str, float]:
    """Sample answers to all instructions in one call, and log every metric with its interval, and `results` for the card.

    What is logged as `eval_pass@1`, `eval_pass@1_low` and `eval_pass@1_high` is `eval/pass@1` and so on in TensorBoard and
    other trackers. Sampling draws from generators of its own, so that training goes on as if there had been no evaluation;
    a vLLM server has its generators to itself. `source` is as in [`load_labelled`], `name` its name in the card.
    """
    args, sampler = trainer.args, trainer.loader.sampler
    trainer._last_loaded_step = -1  # `load_best_model_at_end` changes weights without a step: vLLM takes them afresh
    trainer.model.eval()
    rows = load_labelled(source, answer_format=args.answer_format)
    with own_generators(engine_seed(trainer), trainer.accelerator.device):
        template = load_template(args.prompt_template)
        prompt_ids = sampler.tokenize([answer_prompt(row["instruction"], template) for row in rows])
        groups = sampler.sample(prompt_ids, trainer.num_generations_eval)
    samples, budget = map(as_sample, groups), args.max_vote_seconds
    scored = score_all(sampler, rows, samples, args.answer_format, budget, template.thinking_end)
    summary = summarize(scored)
    metrics = {f"{prefix}_{name}": value["value"] for name, value in summary.items()}
    metrics |= {f"{prefix}_{name}_{end}": value[end] for name, value in summary.items() for end in ("low", "high")}
    if timeouts := sum(sum(row["timed_out"]) for row in scored):
        metrics[f"{prefix}_timeouts"] = float(timeouts)
    trainer.model.eval()  # continuous batching ends in training mode, and TRL's log asks for the mode
    trainer.log(dict(metrics))
    measured = {name: getattr(args, name) for name in ("temperature", "max_completion_length")}
    measured |= {"num_samples": trainer.num_generations_eval, "instructions": len(rows)}
    measured["step"] = trainer.state.global_step
    trainer.state.log_history[-1]["results"] = card_results(name, summary, measured)
    trainer.control = trainer.callback_handler.on_evaluate(args, trainer.state, trainer.control, metrics)
    return metrics

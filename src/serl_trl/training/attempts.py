"""Attempts at what Trainer and TRL do after the model is loaded: to fail before."""

import inspect
from collections.abc import Callable

import torch
from transformers import GenerationConfig, Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from ..rewards import accuracy_reward


# What TRL calls a reward function with, by name: the columns of our rows, and its own.
_REWARD_ARGUMENTS = """
prompts completions completion_ids vote_reward instruction pseudo_label pass_rate votes trainer_state log_extra log_metric
""".split()
_NEED_THE_MODEL = ("apollo", "galore", "lomo")  # optimizers that are made from its layers


def check_rewards(reward_funcs: Callable | str | list | None, reward_weights: list[float] | None) -> None:
    """Raise `ValueError` if TRL could not call a reward function, or not weight its rewards."""
    if reward_funcs == [] or isinstance(reward_funcs, tuple):
        raise ValueError(f"reward_funcs is {reward_funcs!r}. Set it to a function or a list of them, or leave it out.")
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    for function in functions:
        if callable(function) and not isinstance(function, torch.nn.Module):  # that is a reward model
            _check_reward_function(function)
    if reward_weights is not None and len(reward_weights) != len(functions):
        raise ValueError(f"reward_weights is {reward_weights}. Set it to a number for each reward ({len(functions)}).")


def _check_reward_function(function: Callable) -> None:
    signature, name = inspect.signature(function), getattr(function, "__name__", repr(function))
    answer = signature.parameters.get("answer")
    if answer is not None and (answer.default is answer.empty or function is accuracy_reward):
        raise ValueError(
            f"The reward function {name} asks for `answer`, and columns of the seeds reach no reward "
            "function. To train on true answers leave reward_funcs out, and set instruction_source to 'seeds' and "
            "label_source to 'true_answer'."
        )
    try:
        signature.bind(**dict.fromkeys(_REWARD_ARGUMENTS))
    except TypeError as error:
        raise ValueError(
            f"The reward function {name} can't be called: {error}. It gets {', '.join(_REWARD_ARGUMENTS)} "
            "by name. Take those that it needs and `**kwargs`, and give all others a default."
        ) from error


def check_optimizer(args) -> None:
    """Raise `ValueError` if optimizer or learning-rate schedule can't be made."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, names = torch.optim.SGD([parameter], lr=args.learning_rate), ("optim", "optim_args")
    try:
        if not any(name in args.optim for name in _NEED_THE_MODEL):
            kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
            kind([parameter], **settings)
        names = ("lr_scheduler_type", "lr_scheduler_kwargs")
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            args.get_warmup_steps(args.max_steps),
            args.max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except (ImportError, TypeError, ValueError) as error:
        name, more = names
        raise ValueError(
            f"{name} is {getattr(args, name).value!r} with {more} {getattr(args, more)!r}: {error}. Correct one of them."
        ) from error


def check_generation(args) -> None:
    """Raise `ValueError` if `generation_kwargs` or `cache_implementation` are none that the engine has."""
    given = args.generation_kwargs or {}
    if args.use_vllm:
        from vllm import SamplingParams

        known = inspect.signature(SamplingParams).parameters
    else:
        known = vars(GenerationConfig(cache_implementation=args.cache_implementation))
    for name in given.keys() - known.keys():
        raise ValueError(f"generation_kwargs sets {name!r}, which the engine does not know. Remove it.")


def check_reports(args) -> None:
    """Raise `ValueError` if a tracker in `report_to` is unknown or not installed."""
    try:
        for callback in get_reporting_integration_callbacks(args.report_to):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(f"report_to is {args.report_to}: {error} Set it to none, or to what is installed.") from error

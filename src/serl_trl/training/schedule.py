"""When a run ends, and how the learning rate comes down until then."""

import math
from collections.abc import Callable
from fractions import Fraction

from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def placeholder_rows(args) -> Dataset:
    """Return rows for TRL's data loader, as many as the run takes: one epoch, whose length is `max_steps`."""
    rows = math.ceil(args.max_steps / steps_per_batch(args)) * args.num_groups
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": ""}]] * rows})


def steps_per_batch(args) -> Fraction:
    """Return the optimizer steps from one generation batch to the next; a step may take several."""
    return Fraction(args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps)


def is_over(args, counts: dict[str, int]) -> bool:
    """Return whether `instructions_per_iteration` instructions are among the counts of a run's funnel."""
    enough = args.instructions_per_iteration
    return enough is not None and counts.get("admitted", 0) >= enough


def between_batches(trainer) -> bool:
    """Return whether a trainer has trained its generation batch to the end."""
    return trainer._step % (trainer.args.steps_per_generation * trainer.args.num_iterations) == 0


def is_finished(trainer) -> bool:
    """Return whether a trainer has nothing left to train; a generation batch once begun is trained to its end."""
    over = between_batches(trainer) and is_over(trainer.args, trainer.loader.totals.counts)
    return over or trainer.state.global_step >= trainer.args.max_steps


def follow_progress(scheduler: LRScheduler, num_training_steps: int, trainer) -> None:
    """Let a schedule be as far as the run is, where its instructions are further than its steps.

    Args:
        scheduler (`LRScheduler`): One that computes the rate from the step, as most of transformers' do; others stay.
        num_training_steps (`int`): The steps that it was made for.
        trainer ([`SeRLTrainer`]): Whose `instructions_per_iteration` may end the run.
    """
    enough = trainer.args.instructions_per_iteration

    def at_progress(rate: Callable) -> Callable:
        done = lambda: min(trainer.loader.totals.counts["admitted"] / enough, 1.0)  # noqa: E731
        return lambda step: rate(max(step, done() * num_training_steps))

    if isinstance(scheduler, LambdaLR) and enough is not None:
        scheduler.lr_lambdas = [at_progress(rate) for rate in scheduler.lr_lambdas]


def follow_learning_rate(trainer, saved: float) -> None:
    """Let the learning rate of the settings hold, where optimizer and schedule were loaded with the `saved` one."""
    rate = trainer.args.learning_rate
    if rate != saved:
        change_learning_rate(trainer, lambda value: value * rate / saved if saved else rate)


def rates(group: dict) -> dict[str, float]:
    """Return the learning rates of a group of parameters: that of now, and those that its schedule computes with."""
    return {name: group[name] for name in ("lr", "initial_lr", "min_lr", "max_lr") if name in group}


def change_learning_rate(trainer, changed: Callable[[float], float]) -> None:
    """Change the rate of now, and that which the schedule begins with."""
    scheduler = trainer.lr_scheduler
    for group in trainer.optimizer.param_groups:
        group |= {name: changed(value) for name, value in rates(group).items()}
    for name in {"base_lrs", "_last_lr"} & vars(scheduler).keys():  # the second is what is logged
        setattr(scheduler, name, [changed(value) for value in getattr(scheduler, name)])

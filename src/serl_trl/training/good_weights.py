"""The last good weights of a run: how they are saved, and the way back to them."""

import shutil
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_utils import SaveStrategy

from ..engine.sampling_settings import attributes
from ..engine.slow_weights import reshard
from .checkpoints import find_damage, last_checkpoint, list_checkpoints
from .resume import load_loader_state
from .schedule import change_learning_rate, rates


# The underscore keeps it out of what is pushed, and from Trainer's own checkpoints, which it must not be rotated with.
GOOD_FOLDER = "_good"


class LostWeightsError(RuntimeError):
    """The weights have lost, or are no longer finite numbers, and there are no good ones to go back to."""


def good_checkpoint(trainer, step: int) -> Path:
    """Return the folder of the good weights of a step."""
    return Path(trainer.args.output_dir) / GOOD_FOLDER / f"checkpoint-{step}"


def damage_of_good(trainer, step: int) -> str | None:
    """Return what is wrong with the good weights of a step; the first process reads them, and all get what it finds."""
    found = [find_damage(good_checkpoint(trainer, step)) if trainer.accelerator.is_main_process else None]
    return broadcast_object_list(found)[0]


def save_good(trainer) -> None:
    """Save weights, optimizer and slow weights of now as Trainer saves a checkpoint.

    Of the earlier ones stays what a run that goes on from the last checkpoint would go back to and, where true answers
    have to show a gain, the start.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir) / GOOD_FOLDER
    quiet = {
        "push_to_hub": False,
        "save_strategy": SaveStrategy.NO,
        "save_total_limit": None,
        "save_only_model": False,
    }
    with attributes(trainer, {"_get_output_dir": lambda trial: str(folder)}), attributes(args, quiet):
        trainer._save_checkpoint(trainer.model, None)
    if trainer.state.global_step == 0:
        _forget_steps(trainer)
    if args.should_save:
        kept = {good_checkpoint(trainer, trainer.state.global_step)}
        if trainer.trust.evidence.is_labelled:
            kept.add(good_checkpoint(trainer, trainer.trust.sentinel.start_step))
        if last := last_checkpoint(args.output_dir):
            kept.add(good_checkpoint(trainer, load_loader_state(last)["trust"]["sentinel"]["good"]))
        for path in {*list_checkpoints(folder)} - kept:
            shutil.rmtree(path)


def _forget_steps(trainer) -> None:
    """Empty the optimizer of the start: to save or load it, torch lets one that FSDP2 shards do a step of nothing."""
    if trainer.is_fsdp_enabled:
        trainer.optimizer.state.clear()


def remove_good(trainer) -> None:
    """Remove the good weights: the run is over."""
    if trainer.args.should_save:
        shutil.rmtree(Path(trainer.args.output_dir) / GOOD_FOLDER, ignore_errors=True)


def go_back(trainer, step: int, factor: float) -> None:
    """Take the good weights of a step, with optimizer and slow weights, in the midst of training; the schedule goes on.

    Args:
        trainer ([`SeRLTrainer`]): The trainer; its steps, ledger and rollouts stay as they are.
        step (`int`): Whose weights [`save_good`] has saved.
        factor (`float`): What the learning rate is multiplied with from here on.

    Raises:
        LostWeightsError: if they are damaged; nothing was changed then.
    """
    checkpoint = str(good_checkpoint(trainer, step))
    if damage := damage_of_good(trainer, step):
        raise LostWeightsError(f"{checkpoint}, the weights to go back to: {damage}.")
    schedule, groups = trainer.lr_scheduler.state_dict(), [rates(group) for group in trainer.optimizer.param_groups]
    reshard(trainer.model_wrapped)
    if trainer.is_deepspeed_enabled:
        strict = not hasattr(trainer.model, "peft_config")
        deepspeed_load_checkpoint(trainer.model_wrapped, checkpoint, load_module_strict=strict)
    else:
        trainer._load_from_checkpoint(checkpoint, trainer.model_wrapped if trainer.is_fsdp_enabled else trainer.model)
    trainer.load_optimizer(checkpoint)
    if step == 0:
        _forget_steps(trainer)
    trainer.lr_scheduler.load_state_dict(schedule)
    for group, before in zip(trainer.optimizer.param_groups, groups, strict=True):
        group |= before
    change_learning_rate(trainer, lambda rate: rate * factor)
    trainer.trust.load_slow_weights(checkpoint)
    trainer._last_loaded_step = -1  # vLLM takes the weights of a step once: these are others

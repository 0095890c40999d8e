"""Self-play iterations: each from the last one's model, with a fresh reference model and a fresh kept pool (SeRL)."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.callbacks import SyncRefModelCallback

from .checks import last_checkpoint, resolve_checkpoint
from .serl_config import SeRLConfig


def iteration_folder(output_dir: str, iteration: int) -> str:
    """Return the folder of an iteration's model, checkpoints and ledger, e.g. `"outputs/mine/_iteration-2"`.

    The underscore keeps the instructions in it out of `push_to_hub`, as that of the ledger does.
    """
    return str(Path(output_dir) / f"_iteration-{iteration}")


def resolve_start(resume_from_checkpoint: str | bool | None, args: SeRLConfig) -> tuple[int, str | None]:
    """Return the iteration to start with, from 1, and the checkpoint to go on from in it, if there is one.

    Args:
        resume_from_checkpoint (`str` or `bool`, *optional*):
            See [`checks.resolve_checkpoint`]; with several iterations only `True`, for where the run stopped.
        args ([`SeRLConfig`]): The settings.

    Raises:
        ValueError: if `output_dir` holds another run, or none to go on with.
    """
    if args.num_self_play_iterations == 1:
        return 1, resolve_checkpoint(resume_from_checkpoint, args)
    folders = [iteration_folder(args.output_dir, number + 1) for number in range(args.num_self_play_iterations)]
    if not resume_from_checkpoint:
        if Path(folders[0]).exists():
            raise ValueError(
                f"output_dir {args.output_dir!r} holds another run. Set resume_from_checkpoint to True to go on with "
                "it, or output_dir to a new folder."
            )
        return 1, resolve_checkpoint(None, args)
    if str(resume_from_checkpoint).lower() != "true":
        raise ValueError(
            f"resume_from_checkpoint is {resume_from_checkpoint!r} with num_self_play_iterations="
            f"{args.num_self_play_iterations}. Set it to True: the run goes on in the iteration where it stopped."
        )
    finished = sum((Path(folder) / TRAINER_STATE_NAME).is_file() for folder in folders)
    if finished == len(folders):
        raise ValueError(
            f"All {finished} iterations in {args.output_dir!r} are finished. Raise num_self_play_iterations to go on."
        )
    checkpoint = last_checkpoint(folders[finished])
    if finished == 0 and checkpoint is None:
        raise ValueError(
            f"There is no complete checkpoint in {folders[0]!r}. Start without resume_from_checkpoint, in a new "
            "output_dir."
        )
    return finished + 1, checkpoint


def resume_point(args: SeRLConfig) -> str | None:
    """Return the folder that `resume_from_checkpoint=True` would go on from, `None` if there is none."""
    try:
        iteration, checkpoint = resolve_start(True, args)
    except ValueError:
        return None
    return checkpoint or iteration_folder(args.output_dir, iteration - 1)


def reset_reference(trainer) -> None:
    """Make the reference model, if the KL needs one, equal to the model as it is now."""
    if trainer.beta == 0.0:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.ref_model is not None:
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        SyncRefModelCallback.sync_target_model(model, reference, alpha=1.0)
        return
    # The adapter named "ref" is what TRL takes for the reference of an adapter that was trained before.
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in list(model.named_parameters()):
        if ".default." in name:
            reference = model.get_parameter(name.replace(".default.", ".ref."))
            reference.data.copy_(parameter.data)
            reference.requires_grad = False


def drop_reference_adapter(trainer) -> None:
    """Take the reference out of a model with adapters: it is no part of what was trained."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")


class EndIteration(TrainerCallback):
    """End the iteration when `instructions_per_iteration` instructions were admitted and the last batch is trained."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        trainer, enough = self.trainer, args.instructions_per_iteration
        between_batches = trainer._step % (args.steps_per_generation * args.num_iterations) == 0
        if enough is not None and between_batches and trainer.loader.totals.counts["admitted"] >= enough:
            control.should_training_stop = True

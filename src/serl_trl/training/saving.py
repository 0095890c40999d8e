"""A checkpoint is saved whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..atomic_write import WriteError, describe_disk
from ..engine.sampling_settings import attributes
from .checkpoints import last_checkpoint, write_manifest
from .resume import rollout_sizes, save_loader_state, save_rollouts
from .same_run import save_facts


# Of a full disk: the last two are torch's and safetensors'.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def _is_of_file(error: Exception) -> bool:
    """Return whether an error is of a file: a `RuntimeError` may be of another process that is gone."""
    return not isinstance(error, RuntimeError) or "inline_container" in str(error)


@contextmanager
def whole_checkpoint(trainer, trial) -> Iterator[None]:
    """Let Trainer save a checkpoint in the block: self-play's part goes before it, and a manifest of all files after.

    Only then are older checkpoints deleted, as `save_total_limit` says. All processes enter and leave the block. With
    `save_only_model` Trainer saves as ever: a model alone is nothing to go on from.

    Raises:
        WriteError: if a file can't be written; what was written of the checkpoint is removed.
    """
    args, run_dir = trainer.args, Path(trainer._get_output_dir(trial=trial))
    if args.save_only_model:
        yield
        return
    folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    save_total_limit = args.save_total_limit
    try:
        if args.should_save and folder.exists():
            shutil.rmtree(folder)  # a save that was cut off, or one that the run went back behind
        trainer.accelerator.wait_for_everyone()
        boundary = trainer.ending.boundary
        if args.should_save:
            save_loader_state(folder, boundary.loader | {"trust": boundary.trust})
            save_facts(folder, trainer.run_facts)
        sizes = rollout_sizes(trainer)
        save_rollouts(folder, args.process_index, boundary.micro_step, sizes, boundary.rollouts)
        trainer.trust.save_slow_weights(folder)
        boundary.restore_generators()
        with attributes(args, {"save_total_limit": None}):
            yield
        trainer.accelerator.wait_for_everyone()  # the manifest lists the files of all processes
        if args.should_save:
            write_manifest(folder)
    except _WRITE_ERRORS as error:
        if not _is_of_file(error):
            raise
        needed = _bytes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise _write_error(f"The checkpoint of step {trainer.state.global_step}", run_dir, needed, error) from error
    if args.should_save:
        rotate_checkpoints(str(run_dir), save_total_limit, trainer.state.best_model_checkpoint)


@contextmanager
def naming_disk(what: str, run_dir: str | Path) -> Iterator[None]:
    """Let the error of a full disk in the block be a [`WriteError`] that names the disk and the last checkpoint."""
    try:
        yield
    except _WRITE_ERRORS as error:
        if not _is_of_file(error):
            raise
        raise _write_error(what, Path(run_dir), 0, error) from error


def _write_error(what: str, run_dir: Path, written: int, error: Exception) -> WriteError:
    last = last_checkpoint(run_dir)
    # The last one may be of the start, with no optimizer yet.
    needed = max(written, _bytes_of(last) if last else 0) / 1e6
    takes = f" A checkpoint takes more than {needed:,.1f} MB." if needed else ""
    reason = (str(error).strip().splitlines() or [""])[0]
    return WriteError(
        f"{what} can't be saved ({type(error).__name__}: {reason}). {describe_disk(run_dir)}{takes} Make room."
    )


def _bytes_of(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())

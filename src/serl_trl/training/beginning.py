"""Where a run begins: anew, or from the last whole checkpoint of the same run."""

import logging
import shutil
from functools import lru_cache
from itertools import count
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerState

from ..output_dir import check_shared
from ..self_play.ledger import LEDGER_FOLDER, Ledger
from .checkpoints import (
    STATE_FILE,
    TRAINER_STATE_FILE,
    checkpoint_step,
    find_damage,
    is_complete,
    last_checkpoint,
    list_checkpoints,
)
from .good_weights import GOOD_FOLDER
from .resume import load_loader_state, load_rollouts, rollout_sizes
from .same_run import check_same_run, describe_changes, load_facts
from .schedule import follow_learning_rate, is_over


logger = logging.getLogger(__name__)


def resolve_checkpoint(resume_from_checkpoint: str | bool | None, args, facts: dict | None = None) -> str | None:
    """Return the checkpoint to go on from, or `None` for a new run in a folder that holds no other.

    The first process reads the files, and all get what it finds.

    Args:
        resume_from_checkpoint (`str` or `bool`, *optional*):
            A folder, or `True` (`"true"`) for the last whole checkpoint; there is none before the first save.
        args ([`SeRLConfig`]): The settings.
        facts (`dict`, *optional*): From [`run_facts`]; the checkpoint must be of the same run.

    Raises:
        ValueError:
            If `output_dir` holds another run, if there is no such checkpoint or it is damaged, if it is of another run,
            or if it is already at `max_steps`.
    """
    found = [None, None]  # checkpoint, error
    if args.process_index == 0:
        try:
            found[0] = _find_checkpoint(resume_from_checkpoint, args)
            if found[0] is not None and facts is not None:
                check_same_run(found[0], facts)
        except ValueError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    if found[1] is not None:
        raise ValueError(found[1])
    return found[0]


def begin_or_resume(trainer, resume_from_checkpoint: str | bool | None) -> str | None:
    """Return the checkpoint that a [`SeRLTrainer`] goes on from, and say what has changed; clear the way of a new run.

    Errors as in [`resolve_checkpoint`].
    """
    check_shared(trainer.args.output_dir)
    checkpoint = resolve_checkpoint(resume_from_checkpoint, trainer.args, trainer.run_facts)
    if trainer.args.process_index == 0:
        if checkpoint is None and resume_from_checkpoint:
            logger.warning(f"There is no checkpoint in {trainer.args.output_dir} to go on from: the run begins.")
        _clear_the_way(Path(trainer.args.output_dir), checkpoint)
        _bring_good_weights(Path(trainer.args.output_dir), checkpoint)
        if checkpoint is not None and (changes := describe_changes(checkpoint, trainer.run_facts)):
            logger.warning(changes)
    trainer.accelerator.wait_for_everyone()
    return checkpoint


def reopen(trainer) -> None:
    """Let a run that goes on count as unfinished."""
    if trainer.args.process_index == 0:
        (Path(trainer.args.output_dir) / TRAINER_STATE_FILE).unlink(missing_ok=True)


def restore(trainer, checkpoint: str) -> None:
    """Take from a checkpoint what Trainer does not know of, when it has loaded weights, optimizer and schedule."""
    follow_learning_rate(trainer, load_facts(checkpoint)["settings"]["learning_rate"])
    trainer.run_facts["settings"]["learning_rate"] = trainer.args.learning_rate  # as a notebook may have set it since
    state = load_loader_state(checkpoint)
    trainer.trust.load(checkpoint, state["trust"])  # before the loader, whose ledger holds the evidence
    trainer.loader.load_state_dict(state)
    rollouts = load_rollouts(
        checkpoint, trainer.accelerator.process_index, rollout_sizes(trainer), trainer.args.device
    )
    if all(gather_object([rollouts is not None])):  # one process can't train its rollouts while another samples
        trainer._step, trainer._buffered_inputs = rollouts


def _find_checkpoint(resume_from_checkpoint: str | bool | None, args) -> str | None:
    is_asked_for = bool(resume_from_checkpoint)
    if is_asked_for and args.save_only_model:
        raise ValueError(
            "save_only_model is True: its checkpoints are models alone, and no run goes on from one. Set "
            "model_name_or_path to one for a new run in another output_dir, or save_only_model to False."
        )
    last = last_checkpoint(args.output_dir)
    if is_asked_for and str(resume_from_checkpoint).lower() != "true":
        checkpoint = str(resume_from_checkpoint)
        _check_named(checkpoint, args.output_dir)
    elif is_asked_for and last is not None:
        checkpoint = _last_whole(args.output_dir)
    else:
        _check_free(args.output_dir, last)
        return None
    step = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_FILE)).global_step
    state = load_loader_state(checkpoint)
    counts, ended = state["totals"]["counts"], state["trust"]["sentinel"]["ended"]
    run, next_id = Path(checkpoint).parent.resolve(), state["source"]["next_id"]
    ledger = run / LEDGER_FOLDER
    _check_ledger(run, state["batch_index"], next_id, ledger.stat().st_mtime_ns if ledger.exists() else None)
    # Without the state at its end, the run was killed before it saved its model: it goes on to that.
    is_finished = (Path(args.output_dir) / TRAINER_STATE_FILE).is_file()
    if is_finished and ended:
        raise ValueError(f"{checkpoint!r}: {ended} Set output_dir to a new folder, and learning_rate to a lower one.")
    if is_finished and (step >= args.max_steps or is_over(args, counts)):
        raise ValueError(
            f"{checkpoint!r} is at step {step}, with {counts.get('admitted', 0)} instructions admitted: nothing is left "
            f"to train (max_steps is {args.max_steps}, instructions_per_iteration {args.instructions_per_iteration}). "
            "Raise what ended the run to go on."
        )
    return checkpoint


@lru_cache(maxsize=1)  # as with checksums: a run is checked before its model is loaded, and again where it starts
def _check_ledger(run: Path, next_batch: int, next_id: int, changed: int | None) -> None:
    """Raise `ValueError` unless the ledger of a run is whole up to its checkpoint."""
    Ledger(run).admitted(next_batch, next_id)


def _check_free(output_dir: str, last: str | None) -> None:
    """Raise `ValueError` if a new run would overwrite another; what one left that never saved anything is none."""
    is_finished = (Path(output_dir) / TRAINER_STATE_FILE).is_file()
    if last is not None:
        state, more = ("a finished run", " and raise max_steps") if is_finished else ("a run that is not finished", "")
        raise ValueError(
            f"output_dir {output_dir!r} holds {state}. Set output_dir to a new folder; to go on with that run set "
            f"resume_from_checkpoint to 'true'{more}."
        )
    if is_finished and any((Path(output_dir) / LEDGER_FOLDER).glob("*.parquet")):
        raise ValueError(
            f"output_dir {output_dir!r} holds a finished run, and no checkpoint to go on from. Set output_dir to a new "
            "folder."
        )


def _check_named(checkpoint: str, output_dir: str) -> None:
    """Raise `ValueError` if a run in `output_dir` can't go on from a checkpoint."""
    if damage := find_damage(checkpoint):
        whole = next((str(path) for path in list_checkpoints(output_dir) if find_damage(path) is None), None)
        raise ValueError(
            f"There is no whole checkpoint of self-play in {checkpoint!r}: {damage}. "
            + (
                f"The last one is {whole!r}."
                if whole
                else "Start without resume_from_checkpoint, in a new output_dir."
            )
        )
    holds_ledger = any((Path(output_dir) / LEDGER_FOLDER).glob("*.parquet"))
    if holds_ledger and Path(checkpoint).parent.resolve() != Path(output_dir).resolve():
        raise ValueError(
            f"{checkpoint!r} is not a checkpoint of the run in output_dir {output_dir!r}, whose ledger would be "
            "overwritten. Set output_dir to the checkpoint's own folder, or to a new one."
        )


def _last_whole(output_dir: str) -> str:
    """Return the last whole checkpoint; raise `ValueError` if none is whole."""
    damaged = []
    for path in list_checkpoints(output_dir):
        damage = find_damage(path)
        if damage is None:
            return str(path)
        damaged.append(f"{path.name}, {damage}")
    raise ValueError(
        f"No checkpoint in {output_dir!r} is whole: {'; '.join(damaged)}. Remove them to begin anew, or set output_dir to "
        "a new folder."
    )


def _clear_the_way(output_dir: Path, checkpoint: str | None) -> None:
    """Put away what came after `checkpoint`, or all of a run that begins anew, and say so: it would be taken for theirs.

    The half of a checkpoint whose save was cut off is removed; all else is renamed.
    """
    step = -1
    if checkpoint is not None:
        step = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_FILE)).global_step
    moves = []
    for path in list_checkpoints(output_dir):
        if checkpoint_step(path) <= step:
            break
        damage = find_damage(path)
        if is_complete(path) or (path / TRAINER_STATE_FILE).is_file():
            moves.append(f"{path.name} is now {_set_aside(path)}" + (f" ({damage})" if damage else ""))
        elif (path / STATE_FILE).is_file():  # else it is none of this trainer's
            shutil.rmtree(path) if not path.is_symlink() else path.unlink()
            moves.append(f"{path.name} is removed (its save was cut off)")
    if checkpoint is None:
        shutil.rmtree(output_dir / GOOD_FOLDER, ignore_errors=True)  # of a run that is none: nothing goes back to it
    if checkpoint is None and (output_dir / LEDGER_FOLDER).exists():
        moves.append(f"the ledger is now {_set_aside(output_dir / LEDGER_FOLDER)}")
    if moves:
        begins = f"goes on from {checkpoint}" if checkpoint else "begins anew, since it had no checkpoint yet"
        logger.warning(f"The run in {output_dir} {begins}: {'; '.join(moves)}.")


def _bring_good_weights(output_dir: Path, checkpoint: str | None) -> None:
    """Copy the good weights of a run that goes on in another folder, in place of those of another run."""
    if checkpoint is not None and (run := Path(checkpoint).parent.resolve()) != output_dir.resolve():
        shutil.rmtree(output_dir / GOOD_FOLDER, ignore_errors=True)
        if (run / GOOD_FOLDER).is_dir():
            shutil.copytree(run / GOOD_FOLDER, output_dir / GOOD_FOLDER)


def _set_aside(path: Path) -> Path:
    """Rename a folder so that no run takes it for its own, and no push takes it along; return the new path."""
    names = (f"_{path.name.removeprefix('_')}-unfinished-{number}" for number in count(1))
    return path.rename(next(path.with_name(name) for name in names if not path.with_name(name).exists()))

"""Where a run goes on, and what a checkpoint holds beyond what Trainer saves, so that it goes on as if never interrupted."""

import json
import logging
import os
import shutil
from itertools import count
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerState

from ..atomic_write import atomic_write
from ..self_play.ledger import LEDGER_FOLDER
from .checkpoints import (
    STATE_FILE,
    TRAINER_STATE_FILE,
    checkpoint_step,
    find_damage,
    is_complete,
    last_checkpoint,
    list_checkpoints,
)
from .same_run import check_same_run, describe_changes
from .schedule import is_over


logger = logging.getLogger(__name__)


def save_loader_state(checkpoint: str | os.PathLike, state: dict) -> None:
    """Write the loader's state, equal on all processes, as JSON; the file appears whole or not at all."""
    with atomic_write(Path(checkpoint) / STATE_FILE) as path:
        path.write_text(json.dumps(state), encoding="utf-8")


def load_loader_state(checkpoint: str | os.PathLike) -> dict:
    """Return the loader's state as saved by [`save_loader_state`]."""
    return json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))


def rollout_sizes(trainer) -> dict:
    """Return the settings that buffered rollouts depend on: how many they are, and which tensors they need."""
    names = ("generation_batch_size", "steps_per_generation", "num_generations", "num_iterations")
    names += ("beta", "advantage_estimator", "loss_type", "use_vllm")
    sizes = {name: getattr(trainer.args, name) for name in names}
    return {"processes": trainer.accelerator.num_processes} | sizes


def save_rollouts(
    checkpoint: str | os.PathLike,
    rank: int,
    micro_step: int,
    sizes: dict[str, int],
    slices: list[dict[str, torch.Tensor | None]] | None,
) -> None:
    """Write one process's place in the generation cycle and the rollouts it has not finished training on.

    Args:
        checkpoint (`str`): The checkpoint's folder.
        rank (`int`): The process.
        micro_step (`int`): Batches trained so far, TRL's `_step`.
        sizes (`dict[str, int]`): From [`rollout_sizes`].
        slices (`list[dict[str, Tensor]]`, *optional*): TRL's `_buffered_inputs`; `None` at the end of a cycle.
    """
    tensors = {
        f"{index}/{name}": tensor.contiguous().clone()  # cloned: slices share storage, which safetensors refuses
        for index, inputs in enumerate(slices or [])
        for name, tensor in inputs.items()
        if tensor is not None
    }
    metadata = {"micro_step": str(micro_step), "slices": str(len(slices or [])), "sizes": json.dumps(sizes)}
    with atomic_write(_rollouts_path(checkpoint, rank)) as path:
        save_file(tensors, path, metadata=metadata)


def load_rollouts(
    checkpoint: str | os.PathLike, rank: int, sizes: dict[str, int], device: torch.device
) -> tuple[int, list[dict[str, torch.Tensor]] | None] | None:
    """Return `micro_step` and `slices` as saved by [`save_rollouts`].

    `None`, with a warning, if they are missing, or would not fit because the sizes or the number of processes has
    changed: then the run starts a new cycle.
    """
    path = _rollouts_path(checkpoint, rank)
    if not path.exists():
        logger.warning(f"{path} is missing: the rollouts it held are lost, and new ones are sampled.")
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["sizes"]) != sizes:
            logger.warning(
                f"{path} was saved with {metadata['sizes']} and the run goes on with {json.dumps(sizes)}: its "
                "rollouts are dropped, and new ones are sampled."
            )
            return None
        slices = [{} for _ in range(int(metadata["slices"]))]
        for key in file.keys():
            index, name = key.split("/", 1)
            slices[int(index)][name] = file.get_tensor(key).to(device)
    return int(metadata["micro_step"]), slices or None


def _rollouts_path(checkpoint: str | os.PathLike, rank: int) -> Path:
    return Path(checkpoint) / f"serl_rollouts_{rank}.safetensors"


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
    checkpoint = resolve_checkpoint(resume_from_checkpoint, trainer.args, trainer.run_facts)
    if trainer.args.process_index == 0:
        if checkpoint is None and resume_from_checkpoint:
            logger.warning(f"There is no checkpoint in {trainer.args.output_dir} yet: the run begins.")
        _clear_the_way(Path(trainer.args.output_dir), checkpoint)
        if checkpoint is not None and (changes := describe_changes(checkpoint, trainer.run_facts)):
            logger.warning(changes)
    trainer.accelerator.wait_for_everyone()
    return checkpoint


def _find_checkpoint(resume_from_checkpoint: str | bool | None, args) -> str | None:
    is_asked_for = bool(resume_from_checkpoint)
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
    counts = load_loader_state(checkpoint)["totals"]["counts"]
    # Without the state at its end, the run was killed before it saved its model: it goes on to that.
    if (step >= args.max_steps or is_over(args, counts)) and (Path(args.output_dir) / TRAINER_STATE_FILE).is_file():
        raise ValueError(
            f"{checkpoint!r} is at step {step}, with {counts.get('admitted', 0)} instructions admitted: nothing is left "
            f"to train (max_steps is {args.max_steps}, instructions_per_iteration {args.instructions_per_iteration}). "
            "Raise what ended the run to go on."
        )
    return checkpoint


def _check_free(output_dir: str, last: str | None) -> None:
    """Raise `ValueError` if a new run would overwrite another; what one left that never saved anything is none."""
    if last is not None:
        raise ValueError(
            f"output_dir {output_dir!r} holds another run. Set resume_from_checkpoint to {last!r} to go on with it, or "
            "output_dir to a new folder."
        )
    holds_ledger = any((Path(output_dir) / LEDGER_FOLDER).glob("*.parquet"))
    if holds_ledger and (Path(output_dir) / TRAINER_STATE_FILE).is_file():
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
    if holds_ledger and Path(checkpoint).resolve().parent != Path(output_dir).resolve():
        raise ValueError(
            f"{checkpoint!r} is not a checkpoint of the run in output_dir {output_dir!r}, whose ledger would be "
            "overwritten. Set output_dir to the checkpoint's own folder, or to a new one."
        )


def _last_whole(output_dir: str) -> str:
    """Return the last whole checkpoint, and warn of later ones; raise `ValueError` if none is whole."""
    damaged = []
    for path in list_checkpoints(output_dir):
        damage = find_damage(path)
        if damage is None:
            if damaged:
                logger.warning(f"The run goes on from {path}. Passed over: {'; '.join(damaged)}.")
            return str(path)
        damaged.append(f"{path.name}, {damage}")
    raise ValueError(
        f"No checkpoint in {output_dir!r} is whole: {'; '.join(damaged)}. Remove them to begin anew, or set output_dir to "
        "a new folder."
    )


def _clear_the_way(output_dir: Path, checkpoint: str | None) -> None:
    """Put away what a run that goes on from `checkpoint`, or begins, would otherwise mix with its own: what came later.

    The half of a checkpoint whose save was cut off is removed. All else is renamed, and said.
    """
    step = -1
    if checkpoint is not None:
        step = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_FILE)).global_step
    later = [path for path in list_checkpoints(output_dir) if checkpoint_step(path) > step]
    aside = [path for path in later if is_complete(path) or (path / TRAINER_STATE_FILE).is_file()]
    for path in set(later) - set(aside):
        if (path / STATE_FILE).is_file():  # else it is none of this trainer's
            shutil.rmtree(path)
    if checkpoint is None and (output_dir / LEDGER_FOLDER).exists():
        aside.append(output_dir / LEDGER_FOLDER)
    for path in aside:
        names = (f"_{path.name.removeprefix('_')}-unfinished-{number}" for number in count(1))
        new_path = next(output_dir / name for name in names if not (output_dir / name).exists())
        path.rename(new_path)
        logger.warning(
            f"{path} is now {new_path}: the run {f'goes on from {checkpoint}' if checkpoint else 'begins anew'}."
        )

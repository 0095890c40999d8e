"""Where a run goes on, and what a checkpoint holds beyond what Trainer saves, so that it goes on as if never interrupted."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerState

from ..atomic_write import atomic_write
from ..self_play.ledger import LEDGER_FOLDER
from .checkpoints import STATE_FILE, TRAINER_STATE_FILE, is_complete, last_checkpoint
from .schedule import is_over


logger = logging.getLogger(__name__)


def save_loader_state(checkpoint: str | os.PathLike, state: dict) -> None:
    """Write the loader's `state_dict`, equal on all processes, as JSON; the file appears whole or not at all."""
    with atomic_write(Path(checkpoint) / STATE_FILE) as path:
        path.write_text(json.dumps(state, default=asdict), encoding="utf-8")


def load_loader_state(checkpoint: str | os.PathLike) -> dict:
    """Return the loader's state as saved by [`save_loader_state`], and the run's folder, whose ledger it goes with."""
    state = json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
    return state | {"output_dir": str(Path(checkpoint).parent)}


def rollout_sizes(trainer) -> dict[str, int]:
    """Return the sizes that buffered rollouts depend on."""
    names = ("generation_batch_size", "steps_per_generation", "num_generations", "num_iterations")
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


def resolve_checkpoint(resume_from_checkpoint: str | bool | None, args) -> str | None:
    """Return the checkpoint to go on from, or `None` for a new run in a folder that holds no other.

    Args:
        resume_from_checkpoint (`str` or `bool`, *optional*): A folder, or `True` (`"true"`) for the last one.
        args ([`SeRLConfig`]): The settings.

    Raises:
        ValueError:
            If `output_dir` holds another run, if there is no such checkpoint, or if it is already at `max_steps`.
    """
    last = last_checkpoint(args.output_dir)
    holds_ledger = any((Path(args.output_dir) / LEDGER_FOLDER).glob("*.parquet"))
    if not resume_from_checkpoint:
        if last is not None:
            raise ValueError(
                f"output_dir {args.output_dir!r} holds another run. Set resume_from_checkpoint to {last!r} to go on "
                "with it, or output_dir to a new folder."
            )
        if holds_ledger:
            raise ValueError(
                f"output_dir {args.output_dir!r} holds the ledger of another run, and no checkpoint to go on from. "
                "Set output_dir to a new folder, or remove it."
            )
        return None
    checkpoint = last if str(resume_from_checkpoint).lower() == "true" else str(resume_from_checkpoint)
    if checkpoint is None or not is_complete(checkpoint):
        raise ValueError(
            f"There is no complete checkpoint of self-play in {checkpoint or args.output_dir!r}. "
            + (f"The last one is {last!r}." if last else "Start without resume_from_checkpoint, in a new output_dir.")
        )
    if holds_ledger and Path(checkpoint).resolve().parent != Path(args.output_dir).resolve():
        raise ValueError(
            f"{checkpoint!r} is not a checkpoint of the run in output_dir {args.output_dir!r}, whose ledger would be "
            "overwritten. Set output_dir to the checkpoint's own folder, or to a new one."
        )
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

"""What a checkpoint holds beyond what Trainer saves, so that a run goes on as if it had never been interrupted."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..atomic_write import atomic_write
from .checkpoints import STATE_FILE


logger = logging.getLogger(__name__)


def save_loader_state(checkpoint: str | os.PathLike, state: dict) -> None:
    """Write the loader's `state_dict`, equal on all processes, as JSON; the file appears whole or not at all."""
    with atomic_write(Path(checkpoint) / STATE_FILE) as path:
        path.write_text(json.dumps(state, default=asdict), encoding="utf-8")


def load_loader_state(checkpoint: str | os.PathLike) -> dict:
    """Return the loader's state as saved by [`save_loader_state`], and the run's folder, whose ledger it goes with."""
    state = json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
    return state | {"output_dir": str(Path(checkpoint).parent)}


def rollout_sizes(trainer) -> dict:
    """Return the settings that buffered rollouts depend on: how many they are, and which tensors they need."""
    names = ("generation_batch_size", "steps_per_generation", "num_generations", "num_iterations")
    names += ("gradient_accumulation_steps", "beta", "advantage_estimator")
    names += ("use_vllm", "vllm_importance_sampling_correction")
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
    return Path(checkpoint) / f"serl_rollouts_{rank}.tensors"  # vLLM takes each *.safetensors for weights

"""Slow weights: an average of the trained ones over the last steps, whose majority confirms that of the trained ones."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..atomic_write import atomic_write


logger = logging.getLogger(__name__)


def _own_part(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the part of a parameter that this process holds: all of it, unless FSDP2 or ZeRO-3 has sharded it."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    return parameter.data.to_local() if hasattr(parameter.data, "to_local") else parameter.data


def reshard(model: torch.nn.Module) -> None:
    """Let FSDP2 forget what it gathered for a forward pass, and keeps for the next: it is not what the shards hold then.

    Call it before weights are written.
    """
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def is_finite(model: torch.nn.Module) -> bool:
    """Return whether all that this process holds of the trained parameters are finite numbers."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(_own_part(parameter).isfinite().all()) for parameter in trained)


class SlowWeights:
    """An exponential average of the weights that are trained, in float32; each process holds that of its own part.

    After each optimizer step, slow = decay * slow + (1 - decay) * trained. With LoRA only the adapter is averaged.

    Args:
        model (`Module`): As it is trained, wrapped or sharded; what is frozen is left out.
        decay (`float`): In [0, 1]; 1 keeps the start.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        reshard(model)
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.decay = decay
        self.tensors = [_own_part(parameter).float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in after an optimizer step."""
        for slow, parameter in zip(self.tensors, self.parameters, strict=True):
            slow.lerp_(_own_part(parameter).float(), 1.0 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the model have the slow weights for the length of the block, and its own again after it, bit for bit."""
        with torch.no_grad():
            own = [_own_part(parameter).clone() for parameter in self.parameters]
            self._write(self.tensors)
        try:
            yield
        finally:
            self._write(own)

    def save(self, path: str | os.PathLike) -> None:
        """Write the tensors to a file; it appears whole or not at all."""
        with atomic_write(Path(path)) as whole:
            save_file({str(index): tensor for index, tensor in enumerate(self.tensors)}, whole)

    def load(self, path: str | os.PathLike) -> None:
        """Take the tensors back from a file that [`SlowWeights.save`] wrote.

        Where there is none or they don't fit, since the number of processes has changed, the average begins anew, with
        a warning.
        """
        saved = []
        if Path(path).exists():
            with safe_open(path, framework="pt") as file:
                saved = [file.get_tensor(str(index)) for index in range(len(file.keys()))]
        if [tensor.shape for tensor in saved] != [tensor.shape for tensor in self.tensors]:
            logger.warning(
                f"{path} is missing, or of another number of processes: the average of the slow weights begins anew."
            )
            return
        for slow, tensor in zip(self.tensors, saved, strict=True):
            slow.copy_(tensor)

    @torch.no_grad()
    def _write(self, tensors: list[torch.Tensor]) -> None:
        reshard(self.model)
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            _own_part(parameter).copy_(tensor)
            if hasattr(parameter, "ds_tensor"):  # ZeRO-3 keeps small ones gathered: let it gather them anew
                parameter.partition(has_been_updated=False)

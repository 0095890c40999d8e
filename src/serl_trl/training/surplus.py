"""What the clipped ratio of surplus groups starts from, beside fresh ones, where TRL does not correct by the engine."""

from collections.abc import Callable

import torch

from ..engine.log_probabilities import token_logps
from .advantages import kl_in_advantage


def old_logps(trainer, output: dict[str, torch.Tensor], sampling_logps: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities that the clipped ratio starts from, shape (batch, completion_length).

    For surplus groups those of the weights that sampled them, which makes the ratio their importance weight; for fresh
    ones (NaN in `sampling_logps`) those of the present weights, as in TRL. Where TRL leaves these to the forward pass of
    the loss, and no KL in the advantages needs them before, they stay NaN until [`fill_in`].
    """
    present = output.get("old_per_token_logps")
    if present is None and trainer.beta != 0.0 and kl_in_advantage(trainer.args.advantage_estimator):
        present = token_logps(trainer, output)
    return sampling_logps if present is None else torch.where(sampling_logps.isnan(), present, sampling_logps)


def fill_in(old: torch.Tensor, forward: Callable, *args, **kwargs) -> tuple:
    """Do the forward pass of TRL's loss, and put its log-probabilities where `old`, of [`old_logps`], is NaN."""
    logps, *rest = forward(*args, **kwargs)
    old.copy_(torch.where(old.isnan(), logps.detach(), old))
    return logps, *rest

"""Log-probabilities of completions under the trainer's present weights."""

from collections.abc import Sequence

import torch
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad


Row = tuple[tuple[int, ...], tuple[int, ...]]  # prompt tokens and completion tokens


def trained_logps(trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the log-probability of each completion token, in nats, with what a gradient of it needs.

    Args:
        trainer ([`SeRLTrainer`]): The trainer.
        batch (`dict[str, Tensor]`): TRL's `prompt_ids`, `prompt_mask`, `completion_ids` and `completion_mask`.

    Returns:
        `Tensor`: Shape (batch, completion_length).
    """
    return trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        batch["completion_ids"].size(1),
        batch_size=trainer.args.per_device_train_batch_size,
    )[0]


@torch.no_grad()
def token_logps(trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the log-probabilities as [`trained_logps`] does, without a gradient."""
    with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        return trained_logps(trainer, batch)


def as_batch(trainer, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Return rows as TRL's tensors, on the trainer's device: prompts padded on the left, completions on the right."""
    batch = {}
    for name, sequences in zip(("prompt", "completion"), zip(*rows, strict=True), strict=True):
        side = "left" if name == "prompt" else "right"
        ids = [torch.tensor(sequence) for sequence in sequences]
        batch[f"{name}_ids"] = pad(ids, padding_value=trainer._tokenizer.pad_token_id, padding_side=side)
        batch[f"{name}_mask"] = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side=side)
    return {name: tensor.to(trainer.accelerator.device) for name, tensor in batch.items()}


def log_probabilities(trainer, rows: Sequence[Row]) -> list[list[float]]:
    """Return the log-probability of each completion token, in nats; every process must bring as many rows."""
    logps = token_logps(trainer, as_batch(trainer, rows))
    return [row[: len(completion)].tolist() for row, (_, completion) in zip(logps, rows, strict=True)]

"""Advantage estimators: from rewards, and the KL to the reference, to what each token's log-probability is weighted by.

| estimator | advantage of token t of completion i | KL |
| --- | --- | --- |
| `grpo` | (r_i - mean of group) / std of group | k3, in the loss |
| `dr_grpo` | r_i - mean of group | k3, in the loss |
| `rloo` | r_i - mean of the group's others - beta * KL from t on | k1, in the reward |
| `reinforce_plus_plus` | whitened over all tokens: r_i - beta * KL from t on | k1, in the reward |
| `reinforce_plus_plus_baseline` | (r_i - mean of group) whitened over all tokens, - beta * KL of t | k2, in the loss |

The first two are TRL's own. k1 = log pi - log pi_ref of the sampled token, k2 = k1^2 / 2, k3 = pi_ref / pi - 1 -
log(pi_ref / pi). TRL's loss has no k2: its gradient under the weights that sampled, k1 * grad log pi, is that of an
advantage of -k1.
"""

from collections.abc import Callable

import torch
from accelerate.utils import gather


ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline")


def kl_in_advantage(estimator: str) -> bool:
    """Return whether the estimator takes the KL into the advantages; else it is a term of TRL's loss."""
    return estimator in ("rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline")


def leave_one_out(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Return each reward less the mean of the others in its group: r_i - sum of the others / (n - 1).

    Args:
        rewards (`Tensor`): Shape (groups * num_generations,), whole groups in order; NaN where there is none.
        num_generations (`int`): Completions of a group, n >= 2.

    Source: RLOO (arXiv 2402.14740, eq. 8).
    """
    groups = rewards.view(-1, num_generations)
    others = groups.nansum(dim=1, keepdim=True) - groups
    counts = (~groups.isnan()).sum(dim=1, keepdim=True) - 1
    return (groups - others / counts).where(counts > 0, 0.0 * groups).flatten()  # alone, it has no baseline


def group_centered(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Return each reward less the mean of its group; shapes as in [`leave_one_out`].

    Source: the baseline of REINFORCE++-baseline (arXiv 2501.03262).
    """
    groups = rewards.view(-1, num_generations)
    return (groups - groups.nanmean(dim=1, keepdim=True)).flatten()


def to_go(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the values of each token and of those after it, shape (batch, completion_length).

    Source: the return without discount of a token's reward in REINFORCE++ (arXiv 2501.03262, eq. 3).
    """
    return values.flip(1).cumsum(1).flip(1)


def whiten(
    advantages: torch.Tensor, mask: torch.Tensor, sum_over_processes: Callable = lambda tensor: tensor
) -> torch.Tensor:
    """Return the advantages of all tokens with mean 0 and standard deviation 1 over the whole generation batch.

    Args:
        advantages (`Tensor`): Shape (batch, completion_length), this process's part.
        mask (`Tensor`): Same shape, 1 at the completion's tokens; elsewhere the result is 0.
        sum_over_processes (`Callable`): From a tensor to its sum over all processes.

    Source: REINFORCE++ (arXiv 2501.03262), global batch normalization.
    """
    total, count = sum_over_processes(torch.stack([(advantages * mask).sum(), mask.sum().clamp(min=1e-8)]))
    centered = (advantages - total / count) * mask
    variance = sum_over_processes(centered.square().sum()) / count
    return centered / (variance.sqrt() + 1e-8)


def log_advantages(trainer, advantages: torch.Tensor, mask: torch.Tensor) -> None:
    """Put the mean over each completion's tokens in the place of GRPO's advantages in TRL's table of completions.

    Args:
        trainer ([`SeRLTrainer`]): One that has just written the rows of a generation batch.
        advantages, mask (`Tensor`): Shape (batch, completion_length), this process's part; see [`whiten`].
    """
    means = (advantages * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    trainer._logs["advantages"].extend(gather(means).tolist())  # it has room for one batch


def token_advantages(
    estimator: str,
    rewards: torch.Tensor,
    kl: torch.Tensor,
    mask: torch.Tensor,
    num_generations: int,
    beta: float,
    rank: int = 0,
    sum_over_processes: Callable = lambda tensor: tensor,
) -> torch.Tensor:
    """Return the advantage of each token for an estimator with the KL in it, shape of `mask`.

    Args:
        estimator (`str`): One of [`ESTIMATORS`] for which [`kl_in_advantage`].
        rewards (`Tensor`): Shape (processes * batch,), of all processes, whole groups in rank order.
        kl (`Tensor`): Shape (batch, completion_length), k1 of each token of this process, 0 outside `mask`.
        mask (`Tensor`): Same shape, 1 at the completion's tokens.
        num_generations (`int`): Completions of a group.
        beta (`float`): KL coefficient.
        rank (`int`): This process.
        sum_over_processes (`Callable`): See [`whiten`].
    """
    if estimator == "rloo":
        outcome = leave_one_out(rewards, num_generations)
    elif estimator == "reinforce_plus_plus_baseline":
        outcome = group_centered(rewards, num_generations)
    else:
        outcome = rewards
    # A completion that no reward function scored moves nothing, as in TRL.
    own = outcome[rank * len(mask) : (rank + 1) * len(mask), None]
    mask = mask * ~own.isnan()
    outcome = own.nan_to_num(nan=0.0)
    if estimator == "reinforce_plus_plus_baseline":
        return whiten(outcome * mask, mask, sum_over_processes) - beta * kl * mask
    advantages = (outcome - beta * to_go(kl)) * mask
    return advantages if estimator == "rloo" else whiten(advantages, mask, sum_over_processes)

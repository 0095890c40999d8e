"""Each estimator against an independent computation in NumPy, token by token in float64, and in a trainer that trains."""

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, tiny_config, tiny_seeds, weights

from serl_trl import SeRLTrainer
from serl_trl.training.advantages import ESTIMATORS, kl_in_advantage, leave_one_out, token_advantages


GROUPS, GENERATIONS, LENGTH, BETA = 5, 4, 7, 0.3
IN_ADVANTAGE = [estimator for estimator in ESTIMATORS if kl_in_advantage(estimator)]


def random_batch(seed: int) -> dict[str, np.ndarray]:
    """Rewards (rows,), masks, and log-probabilities of policy and reference (rows, LENGTH), of random completions."""
    rng = np.random.default_rng(seed)
    rows = GROUPS * GENERATIONS
    lengths = rng.integers(1, LENGTH + 1, rows)
    return {
        "rewards": rng.integers(0, 2, rows).astype(float),
        "mask": (np.arange(LENGTH) < lengths[:, None]).astype(float),
        "logps": -rng.exponential(1.0, (rows, LENGTH)),
        "ref_logps": -rng.exponential(1.0, (rows, LENGTH)),
    }


def expected(estimator: str, batch: dict[str, np.ndarray], beta: float, generations: int) -> np.ndarray:
    """The formulas of the table in advantages.py, as loops."""
    rewards, mask = batch["rewards"], batch["mask"]
    advantages = np.zeros(mask.shape)
    for row, reward in enumerate(rewards):
        group = list(range(row // generations * generations, (row // generations + 1) * generations))
        others = [rewards[other] for other in group if other != row]
        baseline = {
            "rloo": sum(others) / len(others),
            "reinforce_plus_plus": 0.0,
            "reinforce_plus_plus_baseline": sum(rewards[group]) / generations,
        }[estimator]
        for token in range(mask.shape[1]):
            to_go = range(token, int(mask[row].sum()))
            k1 = batch["logps"][row] - batch["ref_logps"][row]
            advantages[row, token] = reward - baseline
            if estimator != "reinforce_plus_plus_baseline":
                advantages[row, token] -= beta * sum(k1[later] for later in to_go)
    if estimator != "rloo":
        tokens = advantages[mask == 1]
        advantages = (advantages - tokens.mean()) / (tokens.std() or 1.0)  # nothing to learn where all are equal
    if estimator == "reinforce_plus_plus_baseline":
        advantages -= beta * (batch["logps"] - batch["ref_logps"])
    return np.where(mask == 1, advantages, 0.0)


@pytest.mark.parametrize("estimator", IN_ADVANTAGE)
@pytest.mark.parametrize("seed", range(3))
def test_estimators_are_their_formulas(estimator, seed):
    batch = random_batch(seed)
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    kl = (tensors["logps"] - tensors["ref_logps"]) * tensors["mask"]
    advantages = token_advantages(estimator, tensors["rewards"], kl, tensors["mask"], GENERATIONS, BETA)
    np.testing.assert_allclose(advantages.numpy(), expected(estimator, batch, BETA, GENERATIONS), atol=1e-7)


@pytest.mark.parametrize(
    ("estimator", "values"),
    [
        ("rloo", [0.5, -1.0, 0.5]),
        # whitened over the three that count
        ("reinforce_plus_plus_baseline", [0.7071, -1.4142, 0.7071]),
        ("reinforce_plus_plus", [0.7071, -1.4142, 0.7071]),
    ],
)
def test_a_completion_without_a_reward_moves_nothing(estimator, values):
    rewards = torch.tensor([1.0, 0.0, 1.0, torch.nan])
    advantages = token_advantages(estimator, rewards, torch.zeros(4, 1), torch.ones(4, 1), 4, BETA)[:, 0]
    assert advantages.tolist() == pytest.approx([*values, 0.0], abs=1e-4)


@pytest.mark.parametrize("estimator", IN_ADVANTAGE)
def test_nothing_to_learn_from_is_no_error(estimator):
    alone = torch.tensor([1.0, torch.nan, torch.nan, torch.nan])  # nothing to compare it with
    for rewards, mask in ((alone, torch.ones(4, 1)), (torch.ones(4), torch.zeros(4, 1))):
        assert token_advantages(estimator, rewards, torch.zeros(4, 1), mask, 4, BETA).tolist() == [[0.0]] * 4


def run(tmp_path, **changes) -> tuple[SeRLTrainer, dict]:
    """Train one step on a reference that differs from the model, and return the trainer and the batch that it took."""
    settings = {"max_steps": 1, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 8, "beta": 0.1}
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings | changes), tiny_seeds())
    if trainer.beta:
        generator = torch.Generator().manual_seed(0)
        for parameter in trainer.ref_model.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    taken, compute_loss = [], trainer.compute_loss

    def recording_compute_loss(model, inputs, *args, **kwargs):
        taken.append(dict(inputs))
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = recording_compute_loss
    before = weights(trainer.model)
    trainer.train()
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(trainer.model), strict=True))
    return trainer, taken[0]


@pytest.mark.parametrize("estimator", IN_ADVANTAGE)
def test_a_trainer_trains_on_the_estimators_advantages(tmp_path, estimator):
    trainer, batch = run(
        tmp_path, advantage_estimator=estimator, steps_per_generation=2, gradient_accumulation_steps=1
    )
    assert batch["advantages"].shape == batch["completion_mask"].shape
    assert trainer.state.log_history[0]["kl"] != 0.0


def test_the_rewards_are_those_of_the_batch(tmp_path):
    trainer, batch = run(tmp_path, advantage_estimator="rloo", beta=0.0)
    wanted = leave_one_out(trainer._rewards[:, 0], 4)  # in the order before TRL shuffles
    assert sorted(batch["advantages"][:, 0].tolist()) == pytest.approx(sorted(wanted.tolist()))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_kl_counts_once(tmp_path, estimator):
    trainer, batch = run(tmp_path, advantage_estimator=estimator)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    losses = []
    for beta in (0.0, 0.1):
        trainer.beta = beta
        losses.append(trainer.compute_loss(trainer.model, batch).item())
        assert trainer.beta == beta
    # With the KL in the reward the loss has no term of its own, else it has.
    assert (losses[0] == losses[1]) == kl_in_advantage(estimator)


def test_dr_grpo_is_trls_without_the_scales(tmp_path):
    trainer, batch = run(tmp_path, advantage_estimator="dr_grpo", beta=0.0)
    assert (trainer.scale_rewards, trainer.loss_type) == ("none", "dr_grpo")
    rewards = trainer._rewards[:, 0].view(-1, 4)
    centered = (rewards - rewards.mean(dim=1, keepdim=True)).flatten()
    assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(centered.tolist()))

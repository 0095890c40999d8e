"""The paper's method trains what TRL's own trainer does on the same completions and rewards."""

from dataclasses import fields
from itertools import count

import pytest
import torch
from conftest import TINY_MODEL, tiny_config, tiny_seeds, weights
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from serl_trl import SeRLTrainer


def as_grpo(config, output_dir) -> GRPOConfig:
    """Return the settings that are TRL's own."""
    own = {field.name: getattr(config, field.name) for field in fields(GRPOConfig) if field.init}
    del own["generation_batch_size"]  # TRL takes this or the steps per generation
    return GRPOConfig(**own | {"output_dir": str(output_dir)})


@pytest.mark.parametrize("changes", [{}, {"beta": 0.1, "num_iterations": 2}])
def test_the_weights_are_those_of_grpo(tmp_path, changes):
    def written_down(*args):
        batch = hand_over(*args)
        trainer.loader.surplus.clear()  # TRL's trainer has none
        torch.manual_seed(len(batches))  # TRL shuffles the rows of a batch
        batches.append(batch.groups)
        return batch

    def replay(prompts, grpo):
        torch.manual_seed(number := next(numbers))
        rows = [
            (list(group.prompt_ids), list(completion.token_ids), reward)
            for group in batches[number]
            for completion, reward in zip(group.completions, group.vote.rewards, strict=True)
        ]
        prompt_ids, completion_ids, votes = map(list, zip(*rows, strict=True))
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None, "vote": votes}

    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path / "serl", max_steps=6, **changes), tiny_seeds())
    batches, numbers, hand_over = [], count(), trainer.loader.hand_over
    trainer.loader.hand_over = written_down
    trainer.train()
    grpo = GRPOTrainer(
        str(TINY_MODEL),
        reward_funcs=lambda vote, **_: vote,
        args=as_grpo(trainer.args, tmp_path / "grpo"),
        train_dataset=Dataset.from_dict({"prompt": ["?"] * 64}),
        rollout_func=replay,
    )
    start = weights(grpo.model)
    grpo.train()
    assert trainer.state.global_step == grpo.state.global_step == 6 and next(numbers) == len(batches)
    assert not any(torch.equal(now, then) for now, then in zip(weights(grpo.model), start, strict=True))
    assert all(torch.equal(own, trls) for own, trls in zip(weights(trainer.model), weights(grpo.model), strict=True))

"""Train the tiny model in a process of its own: `torchrun tests/run_tiny.py OUTPUT_DIR SETTINGS [CHECKPOINT]`.

Each process writes what it saw to OUTPUT_DIR/rank-N.json.
"""

import json
import sys
from pathlib import Path

import torch.distributed
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer, loader


def main() -> None:
    output_dir, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **settings), tiny_seeds())
    batches, groups, vote = [], [], trainer.loader.vote
    judged, carried = [], []  # by this process: completions it voted on in each round, and candidates it trains
    hand_over, single_turn = trainer.loader.hand_over, trainer._generate_single_turn
    majority_vote = loader.majority_vote

    def recording_majority_vote(completions, **kwargs):
        judged[-1].append(completions)
        return majority_vote(completions, **kwargs)

    def recording_vote(admitted, answered, funnel):
        judged.append([])
        votes = vote(admitted, answered, funnel)
        groups.append([[completion.text for completion in group] for _, group in answered])
        return votes

    def recording_single_turn(*args, **kwargs):
        if trainer._carried is not None:
            carried.append([group.candidate_id for group, _ in trainer._carried])
        return single_turn(*args, **kwargs)

    def recording_hand_over(*args):
        batch = hand_over(*args)
        batches.append([[group.instruction, group.vote.rewards] for group in batch.groups])
        return batch

    def recording_token_advantages(output):
        advantages = token_advantages(output)
        tensors = {
            "rewards": trainer._rewards[:, 0],
            "mask": output["completion_mask"],
            "logps": output["old_per_token_logps"],
            "ref_logps": output["ref_per_token_logps"],
            "advantages": advantages,
        }
        estimated.append({name: tensor.tolist() for name, tensor in tensors.items()})
        return advantages

    estimated, token_advantages = [], trainer._token_advantages
    trainer._token_advantages = recording_token_advantages
    trainer.loader.vote, trainer.loader.hand_over = recording_vote, recording_hand_over
    trainer._generate_single_turn, loader.majority_vote = recording_single_turn, recording_majority_vote
    trainer.train(resume_from_checkpoint=sys.argv[3] if len(sys.argv) > 3 else None)
    report = {
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "batches": batches,
        "judged": judged,
        "groups": groups,
        "carried": carried,
        "estimated": estimated,
        "admitted": trainer.loader.filter.texts[50:],
        "weights": [parameter.double().sum().item().hex() for parameter in trainer.model.parameters()],
    }
    (output_dir / f"rank-{trainer.accelerator.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()

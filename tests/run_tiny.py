"""Train the tiny model in a process of its own: `torchrun tests/run_tiny.py OUTPUT_DIR SETTINGS [CHECKPOINT]`.

Each process writes what it saw to OUTPUT_DIR/rank-N.json.
"""

import json
import sys
from pathlib import Path

import torch.distributed
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer


def main() -> None:
    output_dir, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **settings), tiny_seeds())
    batches, vote = [], trainer.loader.vote
    judged = []
    hand_over = trainer.loader.hand_over

    def recording_vote(answered, funnel):
        judged.append([index for index in range(len(answered)) if index % 2 == trainer.accelerator.process_index])
        return vote(answered, funnel)

    def recording_hand_over(*args):
        batch = hand_over(*args)
        batches.append([[group.instruction, group.vote.rewards] for group in batch.groups])
        return batch

    trainer.loader.vote, trainer.loader.hand_over = recording_vote, recording_hand_over
    trainer.train(resume_from_checkpoint=sys.argv[3] if len(sys.argv) > 3 else None)
    report = {
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "batches": batches,
        "judged": judged,
        "admitted": trainer.loader.filter.texts[50:],
        "weights": [parameter.double().sum().item().hex() for parameter in trainer.model.parameters()],
    }
    (output_dir / f"rank-{trainer.accelerator.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()

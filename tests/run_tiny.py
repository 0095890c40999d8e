"""Train the tiny model in a process of its own: `torchrun tests/run_tiny.py OUTPUT_DIR SETTINGS [CHECKPOINT]`.

Each process writes what it saw to OUTPUT_DIR/rank-N.json, and the weights it ends with to rank-N.safetensors. SETTINGS
may have `lora`, `same_completions` and `fails_on` (a process whose engine fails after step 3) beside those of `SeRLConfig`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import TINY_MODEL, tiny_config, tiny_seeds
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from trl.distributed import DistributedBackend

from serl_trl import SeRLTrainer
from serl_trl.engine.sampler import TrainerSampler
from serl_trl.self_play.carriers import Completion


class SameCompletions(TrainerSampler):
    """A sampler whose completions depend on the prompt alone, so that any number of processes trains on the same.

    Three completions of four agree, and they differ in length.
    """

    def sample(self, prompt_ids, num_completions, settings=None):
        tokenizer = self.trainer.processing_class
        groups = []
        for ids in prompt_ids:
            texts = [f"the answer is {1 + sum(ids) % 9}"] * (num_completions - 1) + ["is the answer the answer 18"]
            tokens = [(*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in texts]
            groups.append([Completion(text, row, False) for text, row in zip(texts, tokens, strict=True)])
        return groups


class Failing(SeRLTrainer):
    """A trainer whose engine fails after step 3."""

    def _generate_single_turn(self, *args, **kwargs):
        if self.state.global_step > 3:
            Path(self.args.output_dir, "failed").touch()
            raise RuntimeError("the engine broke")
        return super()._generate_single_turn(*args, **kwargs)


def make_trainer(
    output_dir, lora: bool = False, same_completions: bool = False, fails_on: int | None = None, **settings
) -> SeRLTrainer:
    """Return the trainer of the tiny model."""
    config = tiny_config(output_dir, **settings)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate 1.15 has FSDP for GPUs only, and passes it over on the CPU. It works there too, over gloo.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    adapter = None
    if lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer_class = Failing if fails_on == int(os.environ.get("RANK", 0)) else SeRLTrainer
    trainer = trainer_class(str(TINY_MODEL), config, tiny_seeds(), peft_config=adapter)
    if same_completions:
        trainer.loader.sampler = trainer.loader.source.sampler = SameCompletions(trainer)
        if trainer.loader.confirmation is not None:
            trainer.loader.confirmation.sampler = trainer.loader.sampler
    return trainer


def whole_weights(trainer) -> dict[str, torch.Tensor]:
    """Return copies of all parameters, put together from the shards of all processes."""
    parameters = dict(trainer.model.named_parameters())
    with DistributedBackend(trainer.accelerator).gather_params(list(parameters.values())):
        whole = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in parameters.items()}
        return {name.removeprefix("module."): p.detach().clone() for name, p in whole.items()}


def main() -> None:
    output_dir, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    trainer = make_trainer(output_dir, **settings)
    batches, groups, label = [], [], trainer.loader.label
    judged, carried = [], []  # by this process: completions it labelled in each round, and candidates it trains
    hand_over, rollouts, judge = trainer.loader.hand_over, trainer._rollouts, trainer.loader.labels.label

    def recording_judge(instruction, completions, truncated):
        judged[-1].append(completions)
        return judge(instruction, completions, truncated)

    def recording_label(admitted, answered, funnel, *labels):
        judged.append([])
        votes = label(admitted, answered, funnel, *labels)
        groups.append([[completion.text for completion in group] for _, group in answered])
        return votes

    def recording_rollouts(rows):
        carried.append([group.candidate_id for group, _ in rows])
        return rollouts(rows)

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
    trainer._token_advantages, trainer._rollouts = recording_token_advantages, recording_rollouts
    trainer.loader.label, trainer.loader.hand_over = recording_label, recording_hand_over
    trainer.loader.labels.label = recording_judge
    trainer.train(resume_from_checkpoint=sys.argv[3] if len(sys.argv) > 3 else None)
    weights = whole_weights(trainer)
    report = {
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "batches": batches,
        "judged": judged,
        "groups": groups,
        "carried": carried,
        "estimated": estimated,
        "admitted": getattr(trainer.loader.source, "admitted", None),
        "wrapped": type(trainer.model_wrapped).__name__,
        "weights": [parameter.double().sum().item().hex() for parameter in weights.values()],
    }
    rank = trainer.accelerator.process_index
    (output_dir / f"rank-{rank}.json").write_text(json.dumps(report))
    save_file(weights, output_dir / f"rank-{rank}.safetensors")


if __name__ == "__main__":
    main()

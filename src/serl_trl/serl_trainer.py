"""TRL's GRPO trainer, fed by self-play."""

import math
import os
from collections.abc import Callable

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.trainer.utils import pad

from . import checks
from .checkpoint import load_loader_state, load_rollouts, save_loader_state, save_rollouts
from .ledger import Ledger
from .loader import SelfPlayLoader
from .rewards import self_play_reward
from .sampler import TrainerSampler, engine_for_device, prepare_engine
from .seeds import load_seeds
from .self_instruction.prompt import answer_prompt, load_template
from .serl_config import SeRLConfig
from .types import Group


class SeRLTrainer(GRPOTrainer):
    """GRPO on instructions that the model writes and rewards itself (SeRL, arXiv 2505.20347).

    TRL asks its data loader for placeholder rows, and this trainer puts a generation batch of [`SelfPlayLoader`] in
    their place at the moment TRL would sample: after the last optimizer step, whatever the schedule. Overrides:

    - `_generate_and_score_completions`: takes the rows from the self-play loader instead of the data loader, since
      that one is read a step ahead, by older weights. Evaluation is left as it is.
    - `_generate_single_turn`: hands back the completions that were voted on, so that they are sampled once.
    - `train`: starts the generation cycle anew on each call, and refuses a folder that holds another run.
    - `_save_checkpoint`, `_load_optimizer_and_scheduler`: the pair that TRL itself extends, for exact resume.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]): As in [`~trl.GRPOTrainer`].
        args ([`SeRLConfig`]): The settings; `max_steps` is the length of the run.
        train_dataset (`str`, `PathLike` or [`~datasets.Dataset`]):
            The seeds: anything that [`load_seeds`] takes. Answers in it are not used by the default reward.
        eval_dataset (like `train_dataset`, *optional*):
            Instructions with an `answer` column: evaluated by accuracy, with the prompt of training.
        reward_funcs (`Callable` or list, *optional*):
            TRL reward functions; they receive the vote as `vote_reward`. By default the vote in training, and
            [`accuracy_reward`] in evaluation.
        processing_class, callbacks, optimizers, quantization_config, peft_config: As in [`~trl.GRPOTrainer`].

    Raises:
        ValueError: before the model is loaded, if settings, seeds and model don't go together.
    """

    _tag_names = ["trl", "grpo", "serl"]
    _name = "SeRL"
    _paper = {
        "title": "SeRL: Self-Play Reinforcement Learning for Large Language Models with Limited Data",
        "id": "2505.20347",
        # docstyle-ignore
        "citation": """@inproceedings{fang2025serl,
    title     = {{SeRL: Self-Play Reinforcement Learning for Large Language Models with Limited Data}},
    author    = {Wenkai Fang and Shunyu Liu and Yang Zhou and Kongcheng Zhang and Tongya Zheng and Kaixuan Chen and Mingli Song and Dacheng Tao},
    booktitle = {Advances in Neural Information Processing Systems},
    year      = {2025},
    eprint    = {arXiv:2505.20347}
}""",
    }

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SeRLConfig,
        train_dataset: str | os.PathLike | Dataset,
        eval_dataset: str | os.PathLike | Dataset | None = None,
        reward_funcs: Callable | list[Callable] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        quantization_config=None,
        peft_config=None,
    ):
        if not isinstance(args, SeRLConfig):
            raise ValueError(f"args must be a SeRLConfig, got {type(args).__name__}.")
        if checks.last_checkpoint(args.output_dir) is None:
            checks.resolve_checkpoint(None, args)  # whether to resume is said to `train`, but here nothing could be
        seeds = list(load_seeds(train_dataset)["instruction"])
        model_config = checks.load_model_config(model, args)
        checks.check_weights(model, model_config, quantization_config, peft_config, args)
        if processing_class is None:
            name = model if isinstance(model, str) else model.name_or_path
            processing_class = AutoTokenizer.from_pretrained(
                name,
                revision=(args.model_init_kwargs or {}).get("revision"),
                padding_side="left",
                trust_remote_code=args.trust_remote_code,
            )
        checks.check_chat_template(processing_class, processing_class.name_or_path)
        control_tokens = checks.control_tokens(processing_class)
        seeds = checks.drop_control_tokens(seeds, control_tokens)
        max_tokens = checks.context_length(model_config, args)
        checks.check_seeds(seeds, processing_class, max_tokens, args)
        self._carried: list[tuple[Group, int]] | None = None  # rows on their way to `_generate_single_turn`

        with engine_for_device(args):
            super().__init__(
                model=model,
                reward_funcs=self_play_reward if reward_funcs is None else reward_funcs,
                args=args,
                train_dataset=_placeholders(args),
                eval_dataset=None if eval_dataset is None else _evaluation_rows(eval_dataset, args),
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        prepare_engine(self)
        ledger = Ledger(args.output_dir, is_writer=self.accelerator.is_main_process)
        self.loader = SelfPlayLoader(args, seeds, TrainerSampler(self), ledger, max_tokens, control_tokens)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as [`~transformers.Trainer.train`] does; for errors see [`checks.resolve_checkpoint`]."""
        if resume_from_checkpoint or self.loader.batch_index == 0:
            resume_from_checkpoint = checks.resolve_checkpoint(resume_from_checkpoint, self.args)
        # A second call starts at step 0 again: no rollouts and no engine weights of the first may be taken for fresh.
        self._step, self._buffered_inputs, self._last_loaded_step = 0, None, -1
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        batch = next(self.loader)
        for name, value in batch.metrics.items():
            self._metrics["train"][name].append(value)
        # This process's part of the batch. Parts are equal, so that a group may straddle two processes.
        rows = [(group, index) for group in batch.groups for index in range(self.num_generations)]
        share = len(rows) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        self._carried = rows[start : start + share]
        inputs = [{"prompt": group.prompt, "vote_reward": group.vote.rewards[index]} for group, index in self._carried]
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._carried = None  # also after an interrupt: an evaluation that follows must sample for itself
        if not self._corrects_by_engine:
            sampling_logps = output.pop("sampling_per_token_logps")
            if any(group.stale for group in batch.groups):
                output["old_per_token_logps"] = self._old_logps(output, sampling_logps)
        return output

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if self._carried is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        rows, self._carried = self._carried, None
        prompt_ids[:] = [list(group.prompt_ids) for group, _ in rows]  # in place: TRL goes on with this list
        completions = [group.completions[index] for group, index in rows]
        logprobs = [
            completion.logprobs if group.stale or self._corrects_by_engine else [None] * len(completion.token_ids)
            for (group, _), completion in zip(rows, completions, strict=True)
        ]
        return [list(completion.token_ids) for completion in completions], logprobs

    @property
    def _corrects_by_engine(self) -> bool:
        """Whether TRL corrects all rollouts by the engine's log-probabilities, the stale ones included."""
        return self.use_vllm and self.vllm_importance_sampling_correction

    def _old_logps(self, output: dict, sampling_logps: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities that the clipped ratio starts from, shape (batch, completion_length).

        For stale groups those of the weights that sampled them, which makes the ratio their importance weight; for
        fresh ones (NaN in `sampling_logps`) those of the present weights, as in TRL.
        """
        old_logps = output.get("old_per_token_logps")
        if old_logps is None:
            names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            old_logps = self._token_logps(*(output[name] for name in names))
        return torch.where(sampling_logps.isnan(), old_logps, sampling_logps)

    @torch.no_grad()
    def _token_logps(self, prompt_ids, prompt_mask, completion_ids, completion_mask) -> torch.Tensor:
        """Return each completion token's log-probability under the present weights, shape of `completion_ids`."""
        return self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([prompt_ids, completion_ids], dim=1),
            torch.cat([prompt_mask, completion_mask], dim=1),
            completion_ids.size(1),
            batch_size=self.args.per_device_train_batch_size,
        )[0]

    def log_probabilities(self, rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[float]]:
        """Return the log-probability of each completion token, in nats, under the present weights.

        Args:
            rows (`list`): Pairs of prompt tokens and completion tokens; every process must bring as many.
        """
        tensors = []  # prompt ids and mask, completion ids and mask
        for sequences, side in zip(zip(*rows, strict=True), ("left", "right"), strict=True):
            ids = [torch.tensor(sequence) for sequence in sequences]
            tensors.append(pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side=side))
            tensors.append(pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side=side))
        logps = self._token_logps(*(tensor.to(self.accelerator.device) for tensor in tensors))
        return [row[: len(completion)].tolist() for row, (_, completion) in zip(logps, rows, strict=True)]

    def _save_checkpoint(self, model, trial):
        if not self.args.save_only_model:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = os.path.join(self._get_output_dir(trial=trial), name)
            if self.args.should_save:
                save_loader_state(folder, self.loader.state_dict())
            mid_cycle = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
            rollouts = self._buffered_inputs if mid_cycle else None
            save_rollouts(folder, self.accelerator.process_index, self._step, self._schedule, rollouts)
            self.accelerator.wait_for_everyone()  # the checkpoint counts as complete only with all rollouts
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self.loader.load_state_dict(load_loader_state(checkpoint))
        rollouts = load_rollouts(checkpoint, self.accelerator.process_index, self._schedule, self.accelerator.device)
        if all(gather_object([rollouts is not None])):  # one process can't train its rollouts while another samples
            self._step, self._buffered_inputs = rollouts

    @property
    def _schedule(self) -> dict[str, int]:
        """The sizes that buffered rollouts depend on."""
        return {
            "processes": self.accelerator.num_processes,
            "generation_batch_size": self.args.generation_batch_size,
            "steps_per_generation": self.args.steps_per_generation,
            "num_generations": self.num_generations,
            "num_iterations": self.num_iterations,
        }


def _placeholders(args: SeRLConfig) -> Dataset:
    """Return rows for TRL's data loader, as many as the run takes: one epoch, whose length is `max_steps`."""
    cycle = args.steps_per_generation * args.num_iterations  # batches from one generation to the next
    generations = math.ceil(args.max_steps * args.gradient_accumulation_steps / cycle)
    rows = generations * (args.generation_batch_size // args.num_generations)
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": ""}]] * rows})


def _evaluation_rows(source: str | os.PathLike | Dataset, args: SeRLConfig) -> Dataset:
    """Return rows for TRL's evaluation: the prompt of training, and the true answer."""
    rows, template = load_seeds(source), load_template(args.prompt_template)
    if "answer" not in rows.column_names or None in rows["answer"]:
        raise ValueError("eval_dataset has rows without an answer. Give each row one, in a column `answer`.")
    prompts = [answer_prompt(instruction, template) for instruction in rows["instruction"]]
    return Dataset.from_dict({"prompt": prompts, "answer": rows["answer"]})

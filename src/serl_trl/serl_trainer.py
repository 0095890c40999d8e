"""TRL's GRPO trainer, fed by self-play."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from trl.trainer.utils import get_config_model_id, pad

from . import checks
from .advantages import kl_in_reward, kl_to_go, token_advantages
from .checkpoint import load_loader_state, load_rollouts, save_loader_state, save_rollouts
from .evaluation.card import accuracies, accuracy_result, add_results
from .hub.card import add_training, histories
from .hub.record import RunRecord, changed_settings, source_name
from .iterations import EndIteration, drop_reference_adapter, iteration_folder, reset_reference, resolve_start
from .ledger import Ledger
from .loader import SelfPlayLoader
from .rewards import self_play_reward
from .rows import evaluation_rows, placeholder_rows
from .sampler import TrainerSampler, engine_for_device, prepare_engine
from .seeds import load_seeds
from .serl_config import SeRLConfig
from .types import Group


class SeRLTrainer(GRPOTrainer):
    """GRPO on instructions that the model writes and rewards itself (SeRL, arXiv 2505.20347).

    TRL asks its data loader for placeholder rows, and this trainer puts a generation batch of [`SelfPlayLoader`] in
    their place at the moment TRL would sample: after the last optimizer step, whatever the schedule. Overrides:

    - `_generate_and_score_completions`: takes the rows from the self-play loader instead of the data loader, since
      that one is read a step ahead, by older weights. Evaluation is left as it is.
    - `_generate_single_turn`: hands back the completions that were voted on, so that they are sampled once.
    - `_calculate_rewards`: keeps the rewards for the advantage estimators that TRL does not have.
    - `compute_loss`: leaves TRL's KL term out where the KL is in the reward.
    - `train`: runs the self-play iterations, and refuses a folder that holds another run.
    - `_save_checkpoint`, `_load_optimizer_and_scheduler`: the pair that TRL itself extends, for exact resume.
    - `_load_from_checkpoint`: loads the adapter that is trained; Trainer takes every folder beside it that holds an
      adapter (the reference's, a checkpoint) for an adapter of the model, and then overlooks it.
    - `create_model_card`: adds how the model was trained, and the accuracy on `eval_dataset`.

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
        if args.hub_token:
            # training_args.bin is pushed as it is, so the token goes where huggingface_hub looks for it first.
            os.environ["HF_TOKEN"], args.hub_token = args.hub_token, None
        checks.check_iterations(args, optimizers)
        checks.check_parallelism(model, peft_config, args)
        if checks.last_checkpoint(args.output_dir) is None:
            checks.resolve_checkpoint(None, args)  # whether to resume is said to `train`, but here nothing could be
        rows = load_seeds(train_dataset)
        seeds, true_answers = list(rows["instruction"]), checks.true_answers(rows, args)
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
        self._rewards: torch.Tensor | None = None  # (rows of all processes, reward functions), of the last batch
        self.eval_name = Path(eval_dataset).stem if isinstance(eval_dataset, (str, os.PathLike)) else "eval_dataset"
        if eval_dataset is not None:
            args.eval_on_start = True
        # For the card; a script knows more of it, and sets it.
        self.seeds_name, self.command = source_name(train_dataset), None
        self.model_settings: dict = {}

        with engine_for_device(args):
            super().__init__(
                model=model,
                reward_funcs=self_play_reward if reward_funcs is None else reward_funcs,
                args=args,
                train_dataset=placeholder_rows(args),
                eval_dataset=None if eval_dataset is None else evaluation_rows(eval_dataset, args),
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        prepare_engine(self)
        self._make_loader = partial(
            SelfPlayLoader,
            args,
            seeds,
            TrainerSampler(self),
            max_tokens=max_tokens,
            control_tokens=control_tokens,
            true_answers=true_answers,
        )
        self._begin_iteration(1)
        self.add_callback(EndIteration(self))

    def _begin_iteration(self, iteration: int) -> None:
        """Make a loader with a fresh pool, whose ledger is in `output_dir`."""
        ledger = Ledger(self.args.output_dir, is_writer=self.accelerator.is_main_process)
        self.loader = self._make_loader(ledger=ledger, iteration=iteration)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as [`~transformers.Trainer.train`] does, `num_self_play_iterations` times over.

        One iteration writes to `output_dir`; of several, each writes its checkpoints, ledger and model to
        `output_dir/_iteration-N`. For errors see [`iterations.resolve_start`].
        """
        args, output_dir = self.args, self.args.output_dir
        if args.num_self_play_iterations == 1:
            if resume_from_checkpoint or self.loader.batch_index == 0:
                _, resume_from_checkpoint = resolve_start(resume_from_checkpoint, args)
            return self._train_iteration(resume_from_checkpoint, **kwargs)
        first, checkpoint = resolve_start(resume_from_checkpoint, args)
        try:
            for iteration in range(first, args.num_self_play_iterations + 1):
                args.output_dir = iteration_folder(output_dir, iteration)
                if iteration > 1:
                    if iteration == first:
                        self._load_from_checkpoint(iteration_folder(output_dir, iteration - 1))
                    reset_reference(self)
                    self.optimizer = None  # Trainer makes a new one, as it does for the schedule
                self._begin_iteration(iteration)
                if checkpoint is None:
                    self.loader.ledger.resume(next_batch=0)  # an interrupted try left rows, but no checkpoint
                result = self._train_iteration(checkpoint, **kwargs)
                checkpoint = None
                drop_reference_adapter(self)
                self.save_model(_internal_call=True)  # pushes nothing
                self.save_state()  # marks the iteration as finished
        finally:
            args.output_dir = output_dir
        return result

    def _train_iteration(self, checkpoint: str | None, **kwargs):
        # A second call starts at step 0 again: no rollouts and no engine weights of the first may be taken for fresh.
        self._step, self._buffered_inputs, self._last_loaded_step = 0, None, -1
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

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
        if kl_in_reward(self.args.advantage_estimator):
            output["advantages"] = self._token_advantages(output)
        return output

    def _calculate_rewards(self, *args, **kwargs):
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _token_advantages(self, output: dict) -> torch.Tensor:
        """Return the advantages of an estimator with the KL in the reward, shape (batch, completion_length)."""
        mask, rewards = output["completion_mask"], self._rewards
        kl = torch.zeros(mask.shape, device=mask.device)
        if self.beta != 0.0:
            logps = output.get("old_per_token_logps")
            kl = kl_to_go(self._token_logps(output) if logps is None else logps, output["ref_per_token_logps"], mask)
            total = self.accelerator.reduce(torch.stack([kl[:, 0].sum(), mask.sum()]))
            self._metrics["train"]["kl"].append((total[0] / total[1]).item())  # mean of k1 over tokens
        weights = self.reward_weights.to(rewards.device)
        unscored = rewards.isnan().all(dim=1)
        return token_advantages(
            self.args.advantage_estimator,
            (rewards * weights).nansum(dim=1).masked_fill(unscored, torch.nan),
            self.beta * kl,
            mask,
            self.num_generations,
            self.accelerator.process_index,
            self.accelerator.reduce,
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute TRL's loss; without its KL term where the KL is in the reward, so that it counts once."""
        beta = self.beta
        if kl_in_reward(self.args.advantage_estimator):
            self.beta = 0.0
        try:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.beta = beta

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
            old_logps = self._token_logps(output)
        return torch.where(sampling_logps.isnan(), old_logps, sampling_logps)

    @torch.no_grad()
    def _token_logps(self, batch: dict) -> torch.Tensor:
        """Return each completion token's log-probability under the present weights, shape (batch, completion_length)."""
        return self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].size(1),
            batch_size=self.args.per_device_train_batch_size,
        )[0]

    def log_probabilities(self, rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[float]]:
        """Return the log-probability of each completion token, in nats, under the present weights.

        Args:
            rows (`list`): Pairs of prompt tokens and completion tokens; every process must bring as many.
        """
        batch = {}
        for name, sequences in zip(("prompt", "completion"), zip(*rows, strict=True), strict=True):
            side = "left" if name == "prompt" else "right"
            ids = [torch.tensor(sequence) for sequence in sequences]
            batch[f"{name}_ids"] = pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side=side)
            batch[f"{name}_mask"] = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side=side)
        logps = self._token_logps({name: tensor.to(self.accelerator.device) for name, tensor in batch.items()})
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

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if hasattr(self.model, "peft_config"):
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def create_model_card(self, model_name: str | None = None, *args, **kwargs):
        """Write TRL's model card with how the model was trained, and its last accuracy where the Hub reads it."""
        name = model_name or Path(self.args.hub_model_id or self.args.output_dir).name
        super().create_model_card(name, *args, **kwargs)
        if not self.is_world_process_zero():
            return
        base_model = get_config_model_id(self.model.config)
        record = RunRecord(
            base_model=Path(base_model).name if os.path.isdir(base_model) else base_model,
            seeds_name=self.seeds_name,
            seeds=self.loader.pool.seeds,
            settings=self.model_settings | changed_settings(self.args),
            command=self.command,
        )
        record.save(self.args.output_dir)
        card = os.path.join(self.args.output_dir, "README.md")
        add_training(card, record, histories(self.args.output_dir, self.state.log_history))
        if accuracies(self.state.log_history):
            add_results(card, [accuracy_result(self)])

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

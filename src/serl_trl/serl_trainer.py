"""TRL's GRPO trainer, fed by self-play."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from .check.measuring import CheckResult, check_trainer
from .engine.adapters import load_trainable
from .engine.log_probabilities import token_logps
from .engine.models import base_model, context_length, load_model_config, load_tokenizer
from .engine.sampling_settings import attributes
from .engine.vllm import prepare_vllm, started
from .evaluation.in_training import evaluate_trainer, evaluation_rows
from .evaluation.model_index import evaluated_at
from .hub.card import write_card
from .hub.paper import PAPER
from .hub.public_push import PublicPushMixin
from .rewards import self_play_reward
from .seeds import Seeds, read_seeds
from .self_play.carriers import Group
from .self_play.funnel import Funnel
from .serl_config import SeRLConfig
from .training import beginning, checks
from .training.advantages import kl_in_advantage, log_advantages, token_advantages
from .training.checkpoints import last_checkpoint
from .training.ending import GracefulEnd
from .training.loader import make_loader
from .training.reporting import ReportWriter
from .training.same_run import run_facts, trained_parts
from .training.saving import whole_checkpoint
from .training.schedule import follow_progress, is_finished, placeholder_rows
from .training.surplus import fill_in, old_logps
from .training.tracking import InstructionTable
from .training.trust import Trust


class SeRLTrainer(PublicPushMixin, GRPOTrainer):
    """GRPO on instructions that the model writes and rewards itself (SeRL, arXiv 2505.20347).

    TRL asks its data loader for placeholder rows, and this trainer puts a generation batch of [`SelfPlayLoader`] in
    their place at the moment TRL would sample: after the last optimizer step, whatever the schedule. Overrides:

    - `_generate_and_score_completions`: takes the rows from the self-play loader instead of the data loader, since
      that one is read a step ahead, by older weights. TRL gets the completions that were labelled by its `rollout_func`.
    - `_calculate_rewards`: keeps the rewards for the advantage estimators that TRL does not have.
    - `compute_loss`: leaves TRL's KL term out where the KL is in the advantages; fresh groups beside surplus get a ratio of 1.
    - `create_scheduler`: lets the learning rate come down by what ends the run.
    - `train`: refuses a folder that holds another run.
    - `evaluate`, `_evaluate`: measure pass@k and maj@k as `serl-trl eval` does, and no step twice.
    - `_run_epoch`: trains no step more where a resumed run has them all, and leaves a checkpoint where it ends early.
    - `save_state`: removes what only a run that is not finished needs.
    - `_save_checkpoint`, `_load_optimizer_and_scheduler`: the pair that TRL itself extends, for exact resume.
    - `_load_from_checkpoint`: loads the adapter that is trained, which Trainer overlooks beside the reference's.
    - `create_model_card`: adds how the model was trained, and the last evaluation.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            As in [`~trl.GRPOTrainer`], or the folder of a saved adapter, which training goes on with.
        args ([`SeRLConfig`]): The settings; `max_steps` is the length of the run.
        train_dataset (`str`, `PathLike`, [`~datasets.Dataset`] or `list[str]`):
            The seeds: anything that [`load_seeds`] takes. Answers in it are not used by the default reward.
        eval_dataset (like `train_dataset`, or a dictionary of such, *optional*):
            Instructions with an `answer` column, answered with the prompt of training.
        reward_funcs (`Callable` or list, *optional*):
            TRL reward functions for training; they receive the columns of [`Group.columns`]. By default the vote.
        processing_class, callbacks, optimizers, quantization_config, peft_config: As in [`~trl.GRPOTrainer`].

    Raises:
        ValueError: before the model is loaded, if settings, seeds and model don't go together.
    """

    _tag_names = ["trl", "grpo", "serl"]
    _name = "SeRL"
    _paper = PAPER

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SeRLConfig,
        train_dataset: str | os.PathLike | Dataset | list[str] | Seeds,
        eval_dataset: str | os.PathLike | Dataset | dict | None = None,
        reward_funcs: Callable | list[Callable] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        quantization_config=None,
        peft_config=None,
    ):
        if not isinstance(args, SeRLConfig):
            raise ValueError(f"args must be a SeRLConfig, got {type(args).__name__}.")
        checks.check_run(model, peft_config, reward_funcs, args)
        seeds, model_config = read_seeds(train_dataset), load_model_config(model, args)
        if processing_class is None:
            processing_class = load_tokenizer(model, args)
        self.seeds = checks.usable_seeds(seeds, processing_class, context_length(model_config, args), args)
        eval_dataset = evaluation_rows(eval_dataset, args)
        self.run_facts = run_facts(args, self.seeds, model_config, processing_class)
        if args.resume_from_checkpoint:
            beginning.resolve_checkpoint(args.resume_from_checkpoint, args, self.run_facts)
        used = {}
        if isinstance(model, str) and base_model(model) is not None:
            model = load_trainable(model, peft_config, quantization_config, args)
            peft_config = quantization_config = None  # the model has them
            used = {"model_init_kwargs": None}  # else TRL would warn that they are ignored
        checks.check_weights(model, model_config, quantization_config, peft_config, args)
        self._rewards: torch.Tensor | None = None  # (rows of all processes, reward functions), of the last batch

        with started(args), attributes(args, used):
            super().__init__(
                model=model,
                reward_funcs=self_play_reward if reward_funcs is None else reward_funcs,
                args=args,
                train_dataset=placeholder_rows(args),
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        self.run_facts["run"] |= trained_parts(self)
        prepare_vllm(self)
        self.loader = make_loader(self)
        self.trust = Trust(self)
        self.ending = GracefulEnd(self)
        self.callback_handler.callbacks.insert(0, self.trust)  # at the end, before a tracker or a user takes the model
        for callback in (self.ending, ReportWriter(self), InstructionTable(self)):
            self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as [`~transformers.Trainer.train`] does; for errors see [`beginning.resolve_checkpoint`].

        A signal ends it with a checkpoint, and then raises as [`GracefulEnd.watching`] says. A generation batch that
        can't be filled ends it as if it were complete, and is in `ending.dry`.
        """
        if resume_from_checkpoint or self.loader.batch_index == 0 or last_checkpoint(self.args.output_dir):
            resume_from_checkpoint = beginning.begin_or_resume(self, resume_from_checkpoint)
        self.loader.totals = Funnel()  # of this call: `instructions_per_iteration` counts them
        # A second call starts at step 0 again: no rollouts and no engine weights of the first may be taken for fresh.
        self._step, self._buffered_inputs, self._last_loaded_step = 0, None, -1
        self.trust.reset()
        with self.ending.watching():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def check(self) -> CheckResult:
        """Return what a training would begin with, without training: `print` shows it. See [`check_trainer`]."""
        return check_trainer(self)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Create Trainer's schedule; where `instructions_per_iteration` may end the run, it comes down with these."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            follow_progress(scheduler, num_training_steps, self)
        return scheduler

    def evaluate(self, eval_dataset=None, ignore_keys: list | None = None, metric_key_prefix: str = "eval") -> dict:
        """Measure pass@k and maj@k as `serl-trl eval` does, on `eval_dataset` or one like it; return what is logged."""
        return evaluate_trainer(self, eval_dataset, metric_key_prefix)

    def _evaluate(self, trial, ignore_keys_for_eval, **kwargs):
        # Resumed from a checkpoint, this step may have been evaluated before it was saved.
        measured = evaluated_at(self.state.log_history, self.state.global_step)
        return measured or super()._evaluate(trial, ignore_keys_for_eval, **kwargs)

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            raise ValueError("SeRLTrainer makes no predictions. Use evaluate, with labelled instructions.")
        batch = next(self.loader)
        for name, value in batch.metrics.items():
            self._metrics["train"][name].append(value)
        # This process's part of the batch. Parts are equal, so that a group may straddle two processes.
        rows = [(group, index) for group in batch.groups for index in range(self.num_generations)]
        share = len(rows) // self.accelerator.num_processes
        rows = rows[self.accelerator.process_index * share :][:share]
        inputs = [group.columns(index) for group, index in rows]
        # The engine has sampled them: TRL need not push the weights again, nor wake it up.
        sampled = {"rollout_func": lambda *_: self._rollouts(rows), "_last_loaded_step": self.state.global_step}
        with attributes(self, sampled):
            output = super()._generate_and_score_completions(inputs)
        if not self.corrects_by_engine:
            # TRL's off-policy mask needs the engine's.
            sampling_logps = (output.get if self.use_vllm else output.pop)("sampling_per_token_logps")
            if any(group.surplus for group in batch.groups):
                fresh = torch.tensor([[not group.surplus] for group, _ in rows], device=sampling_logps.device)
                output["old_per_token_logps"] = old_logps(self, output, sampling_logps.masked_fill(fresh, torch.nan))
        if kl_in_advantage(self.args.advantage_estimator):
            output["advantages"] = self._token_advantages(output)
            log_advantages(self, output["advantages"], output["completion_mask"])
        return output

    def _rollouts(self, rows: list[tuple[Group, int]]) -> dict[str, list]:
        """Return the completions that were labelled, as TRL's `rollout_func` does."""
        completions = [group.completions[index] for group, index in rows]
        return {
            "prompt_ids": [list(group.prompt_ids) for group, _ in rows],
            "completion_ids": [list(completion.token_ids) for completion in completions],
            "logprobs": [list(each.logprobs or [None] * len(each.token_ids)) for each in completions],
        }

    def _calculate_rewards(self, *args, **kwargs):
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _token_advantages(self, output: dict) -> torch.Tensor:
        """Return the advantages of an estimator with the KL in them, shape (batch, completion_length)."""
        mask, rewards = output["completion_mask"], self._rewards
        kl = torch.zeros(mask.shape, device=mask.device)
        if self.beta != 0.0:
            logps = output.get("old_per_token_logps")
            logps = token_logps(self, output) if logps is None else logps
            kl = (logps - output["ref_per_token_logps"]) * mask
            total = self.accelerator.reduce(torch.stack([kl.sum(), mask.sum()]))
            self._metrics["train"]["kl"].append((total[0] / total[1]).item())  # mean of k1 over tokens
        weights = self.reward_weights.to(rewards.device)
        unscored = rewards.isnan().all(dim=1)
        rewards = (rewards * weights).nansum(dim=1).masked_fill(unscored, torch.nan)
        places = self.accelerator.process_index, self.accelerator.reduce
        estimator, size = self.args.advantage_estimator, self.num_generations
        return token_advantages(estimator, rewards, kl, mask, size, self.beta, *places)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute TRL's loss; without its KL term where the KL is in the advantages, so that it counts once.

        The log-probabilities that fresh groups beside surplus lack come from its own forward pass.
        """
        changed = {"beta": 0.0} if kl_in_advantage(self.args.advantage_estimator) else {}
        old = inputs.get("old_per_token_logps")
        if old is not None and old.isnan().any():
            forward = self._get_per_token_logps_and_entropies
            changed["_get_per_token_logps_and_entropies"] = partial(fill_in, old, forward)
        with attributes(self, changed):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @property
    def corrects_by_engine(self) -> bool:
        """Whether TRL corrects all rollouts by the engine's log-probabilities, those of the surplus included."""
        return self.use_vllm and self.vllm_importance_sampling_correction

    def _run_epoch(self, model, trial, **kwargs):
        # A run that was killed after its last checkpoint goes on to its end without training.
        if is_finished(self) or self.trust.ended:
            self.control.should_training_stop = True
            return
        beginning.reopen(self)  # not before: what refuses to go on leaves a finished run as it is
        with self.ending.saving(model, trial):
            super()._run_epoch(model=model, trial=trial, **kwargs)

    def _save_checkpoint(self, model, trial):
        with whole_checkpoint(self, trial):
            super()._save_checkpoint(model, trial)

    def save_state(self):
        """Save Trainer's state, which a finished run has at the top of its folder; its good weights go then."""
        super().save_state()
        self.trust.sentinel.finish()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if hasattr(self.model, "peft_config"):
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def load_optimizer(self, checkpoint):
        """Load optimizer and learning-rate schedule, as Trainer does."""
        # accelerate 1.15 calls the CPU of several processes "cpu:0", a place that torch.load does not know.
        device = self.args.device
        with attributes(self.args, {"_setup_devices": torch.device("cpu")} if device.type == "cpu" else {}):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        self.load_optimizer(checkpoint)
        if checkpoint is not None:
            beginning.restore(self, checkpoint)

    def create_model_card(
        self,
        model_name: str | None = None,
        *args,
        command: str | None = None,
        model_settings: dict | None = None,
        **kwargs,
    ):
        """Write TRL's model card with how the model was trained, and its last evaluation where the Hub reads it.

        Args:
            command (`str`, *optional*): The command that trained, as a card may show it.
            model_settings (`dict`, *optional*): Settings of model and adapter that are none of `args`.
        """
        super().create_model_card(
            model_name or Path(self.args.hub_model_id or self.args.output_dir).name, *args, **kwargs
        )
        if self.is_world_process_zero():
            write_card(self, command, model_settings or {})

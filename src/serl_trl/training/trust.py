"""What keeps a run from training on majorities that are wrong: evidence before it, slow weights, and a sentinel on the way."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback

from ..engine.models import is_sharded
from ..engine.sampling_settings import own_generators
from ..engine.slow_weights import SlowWeights
from ..engine.vllm import engine_seed
from ..self_play.seed_evidence import DRIFT, Evidence, gather_evidence, use_evidence
from .schedule import change_learning_rate
from .sentinel import SLOWER, Sentinel


logger = logging.getLogger(__name__)

DRIFT_GROUPS = 64  # that a fall of the pass rate takes to be seen


class NotReadyError(RuntimeError):
    """The start's own answers give no reason to trust its majority: training would not make it better."""


class Trust(TrainerCallback):
    """Gathers evidence, holds the slow weights and runs the sentinel of a [`SeRLTrainer`]; with method `paper`, none of it.

    Attributes:
        slow_weights ([`SlowWeights`], *optional*): What confirms a majority; there is none before training begins.
        evidence ([`Evidence`], *optional*): What the start answers to the seeds.
        sentinel ([`Sentinel`]): What watches whether the run loses.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.sentinel = Sentinel(self)
        self.reset()

    def reset(self) -> None:
        """Forget the training before: its evidence, and what its alarms made of the learning rate."""
        if alarms := self.sentinel.alarms:
            change_learning_rate(self.trainer, lambda rate: rate / SLOWER**alarms)
        self.slow_weights: SlowWeights | None = None
        self.evidence: Evidence | None = None
        self.drifted = False  # whether few-shot examples are drawn from the seeds alone
        self.sentinel = Sentinel(self)
        self.trainer.loader.min_pass_rate = self.trainer.args.min_pass_rate  # an earlier training's evidence is gone

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin the average, and gather evidence before a new run's first step.

        Raises:
            NotReadyError: if the evidence says that training would not make the model better.
            LostWeightsError: if a resumed run has lost its way back.
        """
        if args.confirm_majority and self.slow_weights is None:
            self._begin_slow_weights()
        if args.evidence_seeds and self.evidence is None:
            with self.aside():
                self.evidence = gather_evidence(self.trainer.loader, self.trainer.seeds.true_answers)
            use_evidence(self.trainer.loader, self.evidence)
            self.trainer.accelerator.print(self.evidence.describe())
            if args.sentinel_checks and not self.evidence.watched:
                logger.warning(
                    f"sentinel_checks is {args.sentinel_checks}, and too few seeds have a majority to watch."
                )
        if self.evidence is not None and (reason := self.evidence.refusal(args.max_pass_rate)):
            raise NotReadyError(reason)
        self._watch_drift()
        self.sentinel.begin(control)

    def on_step_end(self, args, state, control, **kwargs):
        """Take the weights into the average, and go back where they have lost or are no longer finite.

        Raises:
            LostWeightsError: if there are no good ones to go back to.
        """
        if self.sentinel.leave_broken_weights(control):
            return
        if self.slow_weights is not None:
            self.slow_weights.update()
        self._watch_drift()
        self.sentinel.check_if_due(control)

    def on_train_end(self, args, state, control, **kwargs):
        if not self.trainer.ending.agreed:
            self.sentinel.end(control)

    @property
    def ended(self) -> str | None:
        """Why the sentinel ended the training."""
        return self.sentinel.ended

    def _watch_drift(self) -> None:
        """Draw few-shot examples from the seeds alone once the model's own instructions are harder, where no gate binds."""
        loader, args = self.trainer.loader, self.trainer.args
        if (
            self.evidence is None
            or args.instruction_source == "seeds"
            or not args.nearness_level
            or loader.source.gate
        ):
            return
        voted, harder = loader.totals.pass_rates.total(), self.evidence.pass_rate - loader.totals.mean_pass_rate
        if voted >= DRIFT_GROUPS and harder > DRIFT and args.max_kept_examples and not self.drifted:
            self.drifted = True
            logger.warning(
                f"The pass rate of the model's own instructions is {harder:.2f} below that of the seeds: few-shot examples "
                "are drawn from the seeds alone from here on."
            )
        loader.source.max_kept_examples = 0 if self.drifted else args.max_kept_examples

    @contextmanager
    def aside(self, time: int = 0) -> Iterator[None]:
        """Let the block ask the model without dropout, the start as later; training goes on as if nobody had asked."""
        trainer, model = self.trainer, self.trainer.model
        seed, was_training = (engine_seed(trainer) + 2 * trainer.state.global_step + time) % 2**32, model.training
        model.eval()
        try:
            with own_generators(seed, trainer.accelerator.device):
                yield
        finally:
            model.train(was_training)

    def _begin_slow_weights(self) -> None:
        self.slow_weights = SlowWeights(self.trainer.model_wrapped, self.trainer.args.slow_decay)

    def state_dict(self) -> dict:
        """Return what goes into a checkpoint beside the slow weights, as JSON takes it."""
        evidence = None if self.evidence is None else asdict(self.evidence)
        return {"evidence": evidence, "drifted": self.drifted, "sentinel": self.sentinel.state_dict()}

    def load(self, checkpoint: str | os.PathLike, state: dict) -> None:
        """Go on from a checkpoint, whose weights the model has, and its `state_dict`."""
        self.drifted = state["drifted"]
        vars(self.sentinel).update(state["sentinel"])
        if state["evidence"] is not None:
            self.evidence = Evidence(**state["evidence"])
            use_evidence(self.trainer.loader, self.evidence)
        if self.trainer.args.confirm_majority:
            self._begin_slow_weights()
            self.load_slow_weights(checkpoint)

    def save_slow_weights(self, checkpoint: str | os.PathLike) -> None:
        """Write what this process holds; where the weights are not sharded, the first process holds all."""
        if self.slow_weights is not None and (is_sharded(self.trainer.args) or self.trainer.args.process_index == 0):
            self.slow_weights.save(self._path(checkpoint))

    def load_slow_weights(self, checkpoint: str | os.PathLike) -> None:
        if self.slow_weights is not None:
            self.slow_weights.load(self._path(checkpoint))

    def _path(self, checkpoint: str | os.PathLike) -> Path:
        rank = self.trainer.args.process_index if is_sharded(self.trainer.args) else 0
        return Path(checkpoint) / f"serl_slow_weights_{rank}.tensors"  # not .safetensors, as the rollouts

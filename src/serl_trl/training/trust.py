"""What keeps a run from training on majorities that are wrong: evidence before it, slow weights, and a sentinel on the way."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback
from trl import GRPOTrainer

from ..engine.models import is_sharded
from ..engine.sampling_settings import attributes, own_generators
from ..engine.slow_weights import SlowWeights, is_finite
from ..engine.vllm import engine_seed
from ..evaluation.model_index import BACK_TO
from ..self_play.seed_evidence import ALARM, DRIFT, Evidence, agreement, gather_evidence, use_evidence
from .checkpoints import find_damage
from .schedule import change_learning_rate, is_finished
from .sentinel import go_back, good_checkpoint, paired_change, remove_good, save_good


logger = logging.getLogger(__name__)

SHOWN = 1.0 + 1e-6  # standard errors above which true answers show a gain; one answer more to one seed is one of them
FEWEST_STEPS = 8  # between two checks, which cost as much as some steps
DRIFT_GROUPS = 64  # that a fall of the pass rate takes to be seen
SLOWER = 0.5  # what the learning rate is multiplied with at an alarm


class NotReadyError(RuntimeError):
    """Nothing says that training would make the model better: its majority is unsure, or the way back is lost."""


class NotFiniteError(RuntimeError):
    """The weights are no longer finite numbers, and there are no good ones to go back to; they are not saved."""


class Trust(TrainerCallback):
    """Gathers evidence, holds the slow weights and runs the sentinel of a [`SeRLTrainer`]; with method `paper`, none of it.

    Attributes:
        slow_weights ([`SlowWeights`], *optional*): What confirms a majority; there is none before training begins.
        evidence ([`Evidence`], *optional*): What the start answers to the seeds.
        ended (`str`, *optional*): Why the sentinel ended the training.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.alarms = 0
        self.reset()

    def reset(self) -> None:
        """Forget the training before: its evidence, and what its alarms made of the learning rate."""
        if self.alarms:
            change_learning_rate(self.trainer, lambda rate: rate / SLOWER**self.alarms)
        self.slow_weights: SlowWeights | None = None
        self.evidence: Evidence | None = None
        self.start: list[float] = []  # share of answers that agree with each watched label, at the start
        self.start_step = 0  # where that was: a run may be watched only from where it is resumed
        self.good = 0  # the step to go back to: with true answers the best so far, else the last without an alarm
        self.good_scores: list[float] = []  # what `start` was then
        self.last_scores: list[float] = []  # and at the last check
        self.alarms = 0
        self.checked = 0  # the last step that was
        self.drifted = False  # whether few-shot examples are drawn from the seeds alone
        self.ended: str | None = None
        self.trainer.loader.min_pass_rate = self.trainer.args.min_pass_rate  # an earlier training's evidence is gone

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin the average, and gather evidence before a new run's first step.

        Raises:
            NotReadyError: if the evidence says that training would not make the model better, or the way back is lost.
        """
        self._watch_drift()
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
        if self._watches():
            self._have_good_weights()
        self._check_if_due(control)  # a signal or an error may have come before it was done

    def on_step_end(self, args, state, control, **kwargs):
        """Take the weights into the average, and go back where they have lost or are no longer finite.

        Raises:
            NotFiniteError: if the weights are no longer finite numbers, and there are no good ones to go back to.
        """
        if any(self.trainer.loader.sampler.gather([not is_finite(self.trainer.model_wrapped.parameters())])):
            self._leave_what_is_not_finite(control)
        if self.slow_weights is not None:
            self.slow_weights.update()
        self._watch_drift()
        self._check_if_due(control)

    def on_train_end(self, args, state, control, **kwargs):
        if self.trainer.ending.agreed:
            return
        if self._watches():
            if self.checked != state.global_step or args.load_best_model_at_end:
                self._check(control)
            if self.evidence.is_labelled:
                self._keep_start_without_gain(control)
        if is_finished(self.trainer) or self.ended:
            remove_good(self.trainer)

    def _keep_start_without_gain(self, control) -> None:
        change, errors = paired_change(self.last_scores, self.start)
        if errors > SHOWN:
            return
        self._go_back(control, self.start_step, 1.0)
        self.trainer.accelerator.print(
            f"The start is kept: the share of right answers to the {len(self.start)} watched seeds changed by "
            f"{change:+.3f} ({errors:+.1f} standard errors), which shows no gain."
        )

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

    def _have_good_weights(self) -> None:
        """Save the weights of now where a run begins to be watched, or has lost those to go back to.

        Raises:
            NotReadyError: if they are lost, and those of now can't take their place.
        """
        trainer, step, begins = self.trainer, self.trainer.state.global_step, not self.start
        start, good = (good_checkpoint(trainer, at) for at in (self.start_step, self.good))
        start_damage = find_damage(start) if self.evidence.is_labelled and not begins else None
        good_damage = None if begins else find_damage(good)
        if not (begins or start_damage or good_damage):
            return
        now = self._agreement()
        if not begins:
            change, errors = paired_change(now, self.start)
            if start_damage and errors <= SHOWN:
                raise NotReadyError(
                    f"{start}, the start: {start_damage}. True answers show no gain since then ({change:+.3f}, {errors:+.1f} "
                    "standard errors), and it can't be kept. Begin a new run, or set sentinel_checks to 0 to go on without it."
                )
            text = f"{start if start_damage else good}, the weights to go back to: {start_damage or good_damage}."
            if errors <= -ALARM:
                raise NotReadyError(f"{text} Those of now have lost. Go on from an earlier checkpoint.")
            logger.warning(f"{text} Those of now are saved in their place.")
        if begins or start_damage:  # begins in the midst of a run too, where `sentinel_checks` was 0
            self.start, self.start_step, self.last_scores = now, step, now
        self.good, self.good_scores = step, now
        save_good(trainer)

    def _watches(self) -> bool:
        return bool(self.trainer.args.sentinel_checks and self.evidence is not None and self.evidence.watched)

    def _check_if_due(self, control) -> None:
        args, step = self.trainer.args, self.trainer.state.global_step
        if not self._watches() or self.checked == step:
            return
        is_due = step % max(args.max_steps // args.sentinel_checks, FEWEST_STEPS) == 0
        if is_due and not self.trainer.ending.signal_of_any():  # else where the run goes on
            self._check(control)
            if self.good == step and not is_finished(self.trainer):
                save_good(self.trainer)

    def _agreement(self, time: int = 0) -> list[float]:
        with self.aside(time):
            return agreement(self.trainer.loader, self.evidence.watched)

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

    def _check(self, control) -> None:
        """Compare what the model answers to the watched seeds with what the start answered; go back where it has lost."""
        step = self.trainer.state.global_step
        for time in range(2):  # asked again before an alarm: by chance alone one of 32 checks would be one
            now = self._agreement(time)
            change, errors = paired_change(now, self.start)
            if errors > -ALARM:
                break
        measured = {"sentinel/agreement": sum(now) / len(now), "sentinel/change": change, "sentinel/errors": errors}
        self._log(control, measured)
        self.last_scores = now
        if errors > -ALARM:
            self.checked = step
            if not self.evidence.is_labelled or sum(now) >= sum(self.good_scores):
                self.good, self.good_scores = step, now
            return
        what = "of right answers to" if self.evidence.is_labelled else "of the start's majority answers to"
        self._alarm(
            control,
            f"Step {step}: the share {what} the watched seeds fell by {-change:.3f} since the start ({-errors:.1f} standard "
            "errors).",
        )

    def _leave_what_is_not_finite(self, control) -> None:
        args, text = (
            self.trainer.args,
            f"Step {self.trainer.state.global_step}: the weights are no longer finite numbers.",
        )
        if not self._watches():
            raise NotFiniteError(
                f"{text} Go on from a checkpoint before, with learning_rate below {args.learning_rate}."
            )
        self._alarm(control, text)

    def _alarm(self, control, text: str) -> None:
        """Go back to the last good weights; end the training if it is the second time."""
        self._go_back(control, self.good, SLOWER)
        # From here on the run is back; if that has failed, a resumed one is checked again.
        self.checked, self.last_scores = self.trainer.state.global_step, self.good_scores
        self.alarms += 1
        if self.alarms == 1:
            text += f" Weights of step {self.good} are back, and the learning rate is halved."
        else:
            self.ended = f"{text} It is the second time: training ends with the weights of step {self.good}."
            control.should_training_stop = True
        self.trainer.accelerator.print(self.ended or text)

    def _go_back(self, control, step: int, factor: float) -> None:
        go_back(self.trainer, good_checkpoint(self.trainer, step), factor)
        self._log(control, {BACK_TO: float(step)})

    def _log(self, control, values: dict[str, float]) -> None:
        # In an entry of its own: TRL's would take the step's metrics along, and the step's own would not come.
        with attributes(control, {"should_log": False}):
            super(GRPOTrainer, self.trainer).log(values)

    def _begin_slow_weights(self) -> None:
        self.slow_weights = SlowWeights(self.trainer.model_wrapped.parameters(), self.trainer.args.slow_decay)

    def state_dict(self) -> dict:
        """Return what goes into a checkpoint beside the slow weights, as JSON takes it."""
        names = ("start", "start_step", "good", "good_scores", "last_scores", "alarms", "checked", "drifted", "ended")
        evidence = None if self.evidence is None else asdict(self.evidence)
        return {"evidence": evidence} | {name: getattr(self, name) for name in names}

    def load(self, checkpoint: str | os.PathLike, state: dict) -> None:
        """Go on from a checkpoint, whose weights the model has, and its `state_dict`."""
        evidence = state.pop("evidence")
        vars(self).update(state)
        if evidence is not None:
            self.evidence = Evidence(**evidence)
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

"""A sentinel: fixed seeds, answered every so often, that show when a run begins to lose, and what is done then."""

import logging
import math
import statistics
from collections.abc import Sequence

from trl import GRPOTrainer

from ..engine.sampling_settings import attributes
from ..engine.slow_weights import is_finite, reshard
from ..evaluation.model_index import BACK_TO
from ..self_play.seed_evidence import ALARM, agreement
from .good_weights import LostWeightsError, damage_of_good, go_back, good_checkpoint, remove_good, save_good
from .schedule import is_finished


logger = logging.getLogger(__name__)

SHOWN = 1.0 + 1e-6  # standard errors above which true answers show a gain; one answer more to one seed is one of them
FEWEST_STEPS = 8  # between two checks, which cost as much as some steps
SLOWER = 0.5  # what the learning rate is multiplied with at an alarm


def paired_change(now: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """Return the mean change of paired scores, and how many standard errors it is from none, within [-99, 99]."""
    changes = [after - start for after, start in zip(now, before, strict=True)]
    mean = statistics.mean(changes)
    error = statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
    return mean, max(min(mean / max(error, 1e-9), 99.0), -99.0)


class Sentinel:
    """Watches whether a [`SeRLTrainer`] loses; at the first alarm good weights come back, the second ends the training.

    Args:
        trust ([`Trust`]): What has the evidence, and so the seeds to be watched.

    Attributes:
        ended (`str`, *optional*): Why it ended the training.
    """

    def __init__(self, trust):
        self.trust, self.trainer = trust, trust.trainer
        self.start: list[float] = []  # share of answers that agree with each watched label, at the start
        self.start_step = 0  # where that was: a run may be watched only from where it is resumed
        self.good = 0  # the step to go back to: with true answers the best so far, else the last without an alarm
        self.good_scores: list[float] = []  # what `start` was then
        self.last_scores: list[float] = []  # and at the last check
        self.alarms = 0
        self.checked = 0  # the last step that was
        self.checked_instructions = 0  # how many were admitted then
        self.ended: str | None = None

    @property
    def watches(self) -> bool:
        """Whether there are seeds to watch, and checks to do it."""
        return bool(self.trainer.args.sentinel_checks and self.trust.evidence and self.trust.evidence.watched)

    def begin(self, control) -> None:
        """Have good weights to go back to, and do a check that is due: a signal or an error may have come before it.

        Raises:
            LostWeightsError: if those to go back to are damaged, and those of now can't take their place.
        """
        if self.watches:
            self._have_good_weights()
        self.check_if_due(control)

    def leave_broken_weights(self, control) -> bool:
        """Go back from weights that are no longer finite numbers on one of the processes; return whether they were.

        Raises:
            LostWeightsError: if there are no good ones to go back to.
        """
        if not any(self.trainer.loader.sampler.gather([not is_finite(self.trainer.model_wrapped)])):
            return False
        text = f"Step {self.trainer.state.global_step}: the weights are no longer finite numbers."
        if not self.watches:
            rate = self.trainer.args.learning_rate
            raise LostWeightsError(f"{text} Go on from a checkpoint before, with learning_rate below {rate}.")
        self._alarm(control, text)
        return True

    def check_if_due(self, control) -> None:
        """Check every so often, and save the weights if they are good."""
        args, step = self.trainer.args, self.trainer.state.global_step
        steps, instructions = step - self.checked, self._admitted() - self.checked_instructions
        if not self.watches or steps < FEWEST_STEPS:
            return
        enough = args.instructions_per_iteration or math.inf  # where they may end the run, its checks follow them too
        is_due = steps >= args.max_steps // args.sentinel_checks or instructions >= enough / args.sentinel_checks
        if is_due and not self.trainer.ending.signal_of_any():  # else where the run goes on
            self._check(control)
            if self.good == step and not is_finished(self.trainer):
                save_good(self.trainer)

    def end(self, control) -> None:
        """Check the weights that the training ends with; keep the start unless true answers show a gain."""
        if not self.watches:
            return
        with_best = self.trainer.args.load_best_model_at_end
        if self.ended and with_best:
            self._go_back(control, self.good, 1.0)
        elif self.checked != self.trainer.state.global_step or with_best:
            self.trainer._last_loaded_step = -1  # vLLM has the weights of this step, not the best ones
            reshard(self.trainer.model_wrapped)
            self._check(control)
        if self.trust.evidence.is_labelled:
            self._keep_start_without_gain(control)
        self.trainer.accelerator.wait_for_everyone()  # what one process still reads, another may remove from here on

    def finish(self) -> None:
        """Remove the good weights of a run that is over and saved: until then, one that is killed goes on to its end."""
        if is_finished(self.trainer) or self.ended:
            remove_good(self.trainer)

    def state_dict(self) -> dict:
        """Return what a resumed run goes on with, as JSON takes it."""
        return {name: value for name, value in vars(self).items() if name not in ("trust", "trainer")}

    def _have_good_weights(self) -> None:
        """Save the weights of now where a run begins to be watched, or has lost those to go back to."""
        if not self.start:  # in the midst of a run too, where `sentinel_checks` was 0
            self._take_for_good(self._agreement(), as_start=True)
            return
        trainer, is_labelled = self.trainer, self.trust.evidence.is_labelled
        start_damage = damage_of_good(trainer, self.start_step) if is_labelled else None
        damage = start_damage or damage_of_good(trainer, self.good)
        if damage is None:
            return
        now = self._agreement()
        change, errors = paired_change(now, self.start)
        lost = good_checkpoint(trainer, self.start_step if start_damage else self.good)
        if start_damage and errors <= SHOWN:
            raise LostWeightsError(
                f"{lost}, the start: {damage}. True answers show no gain since then ({change:+.3f}, {errors:+.1f} standard "
                "errors), and it can't be kept. Begin a new run, or set sentinel_checks to 0 to go on without it."
            )
        text = f"{lost}, the weights to go back to: {damage}."
        if errors <= -ALARM:
            raise LostWeightsError(f"{text} Those of now have lost. Go on from an earlier checkpoint.")
        logger.warning(f"{text} Those of now are saved in their place.")
        self._take_for_good(now, as_start=start_damage is not None)

    def _take_for_good(self, scores: list[float], as_start: bool) -> None:
        step = self.trainer.state.global_step
        if as_start:
            self.start, self.start_step, self.last_scores = scores, step, scores
            self._mark_checked()
        self.good, self.good_scores = step, scores
        save_good(self.trainer)

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
            self._mark_checked()
            if not self.trust.evidence.is_labelled or sum(now) >= sum(self.good_scores):
                self.good, self.good_scores = step, now
            return
        what = "of right answers to" if self.trust.evidence.is_labelled else "of the start's majority answers to"
        self._alarm(
            control,
            f"Step {step}: the share {what} the watched seeds fell by {-change:.3f} since the start ({-errors:.1f} standard "
            "errors).",
        )

    def _alarm(self, control, text: str) -> None:
        """Go back to the last good weights; end the training if it is the second time."""
        self._go_back(control, self.good, SLOWER)
        self.trainer.loader.surplus = []  # its labels are those of weights that have lost
        # From here on the run is back; if that has failed, a resumed one is checked again.
        self._mark_checked()
        self.last_scores = self.good_scores
        self.alarms += 1
        if self.alarms == 1:
            slower = "" if control.should_training_stop else ", and the learning rate is halved"
            text += f" Weights of step {self.good} are back{slower}."
        else:
            self.ended = f"{text} It is the second time: training ends with the weights of step {self.good}."
            control.should_training_stop = True
        self.trainer.accelerator.print(self.ended or text)

    def _go_back(self, control, step: int, factor: float) -> None:
        go_back(self.trainer, step, factor)
        self._log(control, {BACK_TO: float(step)})

    def _log(self, control, values: dict[str, float]) -> None:
        # In an entry of its own: TRL's would take the step's metrics along, and the step's own would not come.
        with attributes(control, {"should_log": False}):
            super(GRPOTrainer, self.trainer).log(values)

    def _keep_start_without_gain(self, control) -> None:
        change, errors = paired_change(self.last_scores, self.start)
        if errors > SHOWN:
            return
        self._go_back(control, self.start_step, 1.0)
        self.trainer.accelerator.print(
            f"The start is kept: the share of right answers to the {len(self.start)} watched seeds changed by "
            f"{change:+.3f} ({errors:+.1f} standard errors), which shows no gain."
        )

    def _admitted(self) -> int:
        return self.trainer.loader.totals.counts["admitted"]

    def _mark_checked(self) -> None:
        self.checked, self.checked_instructions = self.trainer.state.global_step, self._admitted()

    def _agreement(self, time: int = 0) -> list[float]:
        with self.trust.aside(time):
            return agreement(self.trainer.loader, self.trust.evidence.watched)

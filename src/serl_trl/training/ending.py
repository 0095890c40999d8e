"""How a run ends before its time, with a checkpoint of all that it has trained: by a signal, a dry batch or an error."""

import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import TrainerCallback

from ..atomic_write import WriteError
from ..engine.sampler import EngineError
from ..evaluation.model_index import went_back
from ..self_play.loop import DryBatchError
from .checkpoints import ITERATION_VARIABLE, is_complete, last_checkpoint
from .good_weights import LostWeightsError
from .schedule import between_batches, is_finished


logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GO_ON = "To go on, add --resume_from_checkpoint true, or call train(resume_from_checkpoint=True)."


class SignalReceived(Exception):
    """One of the processes got a signal; all of them raise this at the same point."""


@dataclass(frozen=True)
class Boundary:
    """What a checkpoint holds beside model and optimizer, as it was between two optimizer steps.

    Attributes:
        step (`int`): Optimizer steps done.
        loader (`dict`): State of the [`SelfPlayLoader`].
        trust (`dict`): State of [`Trust`].
        micro_step (`int`): Batches trained, TRL's `_step`.
        rollouts (`list[dict[str, Tensor]]`, *optional*): TRL's `_buffered_inputs`; `None` at the end of a cycle.
        generators (`tuple`): States of the global random generators, from which the engine samples.
    """

    step: int
    loader: dict
    trust: dict
    micro_step: int
    rollouts: list[dict[str, torch.Tensor]] | None
    generators: tuple

    @classmethod
    def of(cls, trainer) -> "Boundary":
        """Return where the trainer is now."""
        on_gpu = trainer.accelerator.device.type == "cuda"
        cuda = torch.cuda.get_rng_state(trainer.accelerator.device) if on_gpu else None
        generators = random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda
        rollouts = None if between_batches(trainer) else trainer._buffered_inputs
        state = trainer.loader.state_dict(), trainer.trust.state_dict()
        return cls(trainer.state.global_step, *state, trainer._step, rollouts, generators)

    def restore_generators(self) -> None:
        """Set the global random generators back to this boundary, for Trainer to save their states."""
        python, numpy, cpu, cuda = self.generators
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


class GracefulEnd(TrainerCallback):
    """Ends a training at its last step, or before it by a signal, a dry batch or an error, with a checkpoint.

    A step that was not finished is dropped: the checkpoint is the one of the last boundary between two steps.

    Attributes:
        dry (`DryBatchError`, *optional*): What ended the training, if a dry batch did.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        # A launcher that is killed does not pass the signal on: its process then has another parent.
        launched = {"ACCELERATE_MIXED_PRECISION", ITERATION_VARIABLE} & os.environ.keys()
        self.launcher = os.getppid() if launched else None
        self.reset()

    def reset(self) -> None:
        self.dry: DryBatchError | None = None
        self.received: int | None = None  # the signal that this process got
        self.agreed: int | None = None  # the signal that ends all processes
        self.begun: Boundary | None = None  # where the present step began
        self.updating: int | None = None  # the step whose update was begun

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = Boundary.of(self.trainer)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.updating = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if is_finished(self.trainer) or self.signal_of_any():
            control.should_training_stop = True

    @property
    def boundary(self) -> Boundary:
        """The last boundary between two steps: where the present step began, unless it is done."""
        if self.begun is not None and self.begun.step == self.trainer.state.global_step:
            return self.begun
        return Boundary.of(self.trainer)

    def signal_of_any(self) -> int | None:
        """Return the signal that one of the processes got, if one did; all of them call this together."""
        lost = self.launcher is not None and os.getppid() != self.launcher
        self.agreed = (
            max(self.trainer.loader.sampler.gather([self.received or (signal.SIGHUP if lost else 0)])) or None
        )
        return self.agreed

    def check(self) -> None:
        """Raise [`SignalReceived`] on all processes if one of them got a signal."""
        if self.signal_of_any():
            raise SignalReceived

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take signals for the length of a training, in the main thread; a second one acts as if nobody had.

        Raises:
            KeyboardInterrupt: at the end of the block, if SIGINT (Ctrl-C) ended the training.
            SystemExit: likewise, with exit code 128 + its number, for SIGTERM and SIGHUP.
        """
        self.reset()
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
        # What nohup or a shell has set to be ignored stays ignored.
        handlers = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

        def give_back():
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def take(number, frame):
            give_back()
            self.received = number
            name = signal.Signals(number).name
            text = f"\n{name}: training ends after this step or round. Once more ends it at once.\n"
            try:
                os.write(2, text.encode())  # not print, which the signal may have come in the middle of
            except OSError:  # the terminal is gone: what is printed from here on goes nowhere
                for descriptor in (1, 2):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

        for number in handlers:
            signal.signal(number, take)
        save_total_limit = self.trainer.args.save_total_limit
        try:
            yield
        except KeyboardInterrupt:  # the second signal
            self.trainer.accelerator.print(f"\nEnded at once. {self.where()}")
            raise
        finally:
            give_back()
            self.trainer.args.save_total_limit = save_total_limit
        if self.agreed is not None:
            name = signal.Signals(self.agreed).name
            self.trainer.accelerator.print(f"\nEnded by {name}. {self.where()}")
            if self.agreed == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + self.agreed)

    @contextmanager
    def saving(self, model, trial) -> Iterator[None]:
        """Write a checkpoint when the block ends, in the middle of a step too; go on to the end of training if all agree.

        Raises:
            DryBatchError: if the first batch is dry: nothing was trained.
        """
        trainer = self.trainer
        try:
            yield
            self.save(model, trial)
        except (DryBatchError, SignalReceived) as end:
            if isinstance(end, DryBatchError):
                if trainer.state.global_step == 0:
                    raise
                self.dry = end
                logger.warning(f"Training ends after step {trainer.state.global_step}.\n{end}")
            trainer.control.should_training_stop = True
            self.save(model, trial)
        except Exception as error:
            shared = isinstance(error, EngineError) or trainer.accelerator.num_processes == 1
            in_step = shared and self.updating != trainer.state.global_step  # processes with each other, and weights
            if in_step and not isinstance(error, (WriteError, LostWeightsError)):
                try:
                    self.save(model, trial)
                except Exception as another:
                    error.add_note(f"No checkpoint could be written: {type(another).__name__}: {another}")
            error.add_note(self.where())
            raise
        if self.dry or self.agreed or trainer.trust.ended:
            trainer.args.save_total_limit = None  # at its end, Trainer may keep the best checkpoint alone

    def save(self, model, trial) -> None:
        """Write a checkpoint of the last boundary, unless there is one or nothing was trained."""
        trainer, args = self.trainer, self.trainer.args
        folder = os.path.join(args.output_dir, f"checkpoint-{trainer.state.global_step}")
        trainer.accelerator.wait_for_everyone()  # the first process may still be at the manifest of this step
        is_saved = is_complete(folder) or (args.save_only_model and os.path.isdir(folder))
        if args.save_strategy != "no" and trainer.state.global_step > 0 and not is_saved:
            trainer._save_checkpoint(model, trial)
            trainer.control = trainer.callback_handler.on_save(args, trainer.state, trainer.control)

    @property
    def has_learnt(self) -> bool:
        """Whether the model agreed with itself too often for a batch, and the sentinel has kept it."""
        return self.dry.learnt and not went_back(self.trainer.state.log_history, self.trainer.state.global_step)

    def why(self) -> str:
        """Say, after the training, why a dry batch ended it, and whether that is success."""
        step = self.trainer.state.global_step
        if self.has_learnt:
            reason = (
                "the model has learnt its seeds: it agrees with itself on most of what it writes. This is success."
            )
        elif self.dry.learnt:
            reason = (
                "the model agrees with itself on most of what it writes. The watched seeds show no gain: earlier weights are "
                "back."
            )
        else:
            reason = "it no longer finds instructions to train on."
        return f"Training ended after step {step}, since {reason}"

    def where(self) -> str:
        """Say in a sentence where the run can go on."""
        step, args = self.trainer.state.global_step, self.trainer.args
        if checkpoint := last_checkpoint(args.output_dir):
            go_on = "" if ITERATION_VARIABLE in os.environ else f" {GO_ON}"
            return f"The run is at step {step}, and its last checkpoint is {checkpoint}.{go_on}"
        reason = "none was saved yet"
        if args.save_strategy == "no":
            reason = "save_strategy is 'no'"
        elif args.save_only_model:
            reason = "save_only_model is True"
        return f"The run is at step {step}, and it has no checkpoint to go on from, since {reason}."

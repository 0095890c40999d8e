"""The report of a run that goes on: at its checkpoints and at its end."""

import time

from transformers import TrainerCallback

from ..hub.run_record import make_record


SHARE = 20  # times as long as a report took, training goes on before the next one
FIRST = 60.0  # seconds before the first one


class ReportWriter(TrainerCallback):
    """Lets the first process of a [`SeRLTrainer`] write `output_dir/_report.html`, in at most 5 % of its time.

    A training of less than a minute gets none: `serl-trl train` writes one at its end in any case, and `serl-trl report`
    at any time.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = self.next = time.monotonic() + FIRST

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero and time.monotonic() >= self.next:
            self._write()

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and time.monotonic() >= self.first:
            self._write()

    def _write(self) -> None:
        from ..report.page import write_or_warn  # it loads matplotlib

        begin = time.monotonic()
        write_or_warn(self.trainer.args.output_dir, lambda: make_record(self.trainer, None, {}))
        end = time.monotonic()
        self.next = end + SHARE * (end - begin)

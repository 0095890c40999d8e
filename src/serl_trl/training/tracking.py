"""What a tracker shows of a run beside its curves: the instructions that are trained on, with their votes."""

from importlib import import_module

import pandas as pd
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from ..markdown import escaped
from ..self_play.carriers import Group


TABLE = "self_rewarding/instructions"
SHOWN = 32  # instructions of a batch; TensorBoard keeps each table whole


class InstructionTable(TrainerCallback):
    """Sends the last batch's instructions to the trackers of `report_to` whenever the trainer logs, as TRL does completions.

    trackio and wandb get a table, TensorBoard a text. Seeds are left out: a tracker may be somebody else's server.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.sent = -1  # the last batch that was

    def on_train_begin(self, args, state, control, **kwargs):
        self.sent = -1

    def on_log(self, args, state, control, **kwargs):
        loader = self.trainer.loader
        groups = [group for group in loader.last_batch if not group.is_seed][:SHOWN]
        if not state.is_world_process_zero or not groups or self.sent == loader.batch_index:
            return
        self.sent, rows = loader.batch_index, [row(group, state.global_step) for group in groups]
        for tracker in map(import_module, {"trackio", "wandb"} & set(args.report_to)):
            if tracker.__name__ == "trackio" or tracker.run is not None:  # wandb has none where it is switched off
                tracker.log({TABLE: tracker.Table(dataframe=pd.DataFrame(rows))})
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text(TABLE, as_markdown(rows), state.global_step)


def as_markdown(rows: list[dict]) -> str:
    """Return rows as a table of Markdown, which shows what the model wrote as it is."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([escaped(str(value)) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(group: Group, step: int) -> dict:
    """Return a row of the table: an instruction, what its majority answers, and how the vote went."""
    vote = group.vote
    answers = pd.Series([answer for answer in vote.answers if answer is not None], dtype=str).value_counts()
    return {
        "step": step,
        "instruction": group.instruction,
        "pseudo_label": vote.pseudo_label,
        "pass_rate": round(vote.pass_rate, 3),
        "votes": ", ".join(f"{answer} ({count})" for answer, count in answers.items()),
    }

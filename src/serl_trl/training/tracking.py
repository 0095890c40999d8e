"""What a tracker shows of a run beside its curves: the instructions that are trained on, with their votes."""

import html
import logging
import re

import pandas as pd
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from ..hub.privacy import folded, holds_seed
from ..report.counts import short, votes
from ..self_play.carriers import Group


logger = logging.getLogger(__name__)

TABLE = "self_rewarding/instructions"
SHOWN = 32  # instructions of a batch; TensorBoard keeps each table whole


class InstructionTable(TrainerCallback):
    """Sends the last batch's instructions to the trackers of `report_to` whenever the trainer logs, as TRL does completions.

    trackio and wandb get a table, TensorBoard a text. What has a seed in it is left out: a tracker may be somebody else's
    server. A tracker that fails ends the tables, not the run.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.sent: list[Group] = []  # the last batch that was
        self.failed = False

    def on_log(self, args, state, control, **kwargs):
        groups = self.trainer.loader.last_batch
        if not state.is_world_process_zero or self.failed or groups is self.sent:
            return
        callbacks = self.trainer.callback_handler.callbacks
        boards = [callback.tb_writer for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        if not (boards or {"trackio", "wandb"} & set(args.report_to)):
            return
        self.sent, rows = groups, table_rows(groups, self.trainer.seeds.instructions, state.global_step)
        try:
            if rows:
                self._send(rows, args.report_to, boards, state.global_step)
        except Exception as error:  # whatever a tracker raises: a run of hours is worth more than its tables
            self.failed = True
            logger.warning(f"The tracker gets no more instructions: {type(error).__name__}: {error}")

    def _send(self, rows: list[dict], report_to: list[str], boards: list, step: int) -> None:
        if "wandb" in report_to:
            import wandb

            if wandb.run is not None:  # there is none where it is switched off
                wandb.log({TABLE: wandb.Table(dataframe=pd.DataFrame(rows))})
        if "trackio" in report_to:
            import trackio

            trackio.log({TABLE: trackio.Table(dataframe=pd.DataFrame(rows))})
        for board in filter(None, boards):
            board.add_text(TABLE, as_markdown(rows), step)


def table_rows(groups: list[Group], seeds: list[str], step: int) -> list[dict]:
    """Return a row for each instruction without a seed in it or in its answers: its majority's answer, and its votes."""
    rows, known = [], list(map(folded, seeds))
    for group in groups[:SHOWN]:
        if not holds_seed([group.instruction, *group.vote.answers], known):
            vote, instruction = group.vote, short(group.instruction)
            row = {"step": step, "instruction": instruction, "pseudo_label": short(vote.pseudo_label)}
            rows.append(row | {"pass_rate": round(vote.pass_rate, 3), "votes": votes(list(vote.answers))})
    return rows


def as_markdown(rows: list[dict]) -> str:
    """Return rows as a table that TensorBoard shows as it is: what the model wrote is no Markdown or HTML there."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_cell, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"[\\`*_{}\[\]#|]", r"\\\g<0>", text)

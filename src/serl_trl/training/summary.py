"""What a run does and did, in readable lines."""

from transformers import ProgressCallback

from ..self_play.funnel import SAMPLED
from ..self_play.ledger import LEDGER_FOLDER


class StepLines(ProgressCallback):
    """Trainer's progress bar, with a line for each log instead of some sixty numbers; these go to the log files."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or "reward" not in logs:
            return
        parts = [f"step {state.global_step}/{state.max_steps}", f"reward {logs['reward']:.2f}"]
        for name in ("self_instruction/candidates", "self_instruction/admitted", "self_rewarding/surplus_groups"):
            parts.append(f"{name.split('/')[1].replace('_', ' ')} {round(logs[name], 1):g}")
        if "self_rewarding/pass_rate" in logs:
            parts.append(f"pass rate {logs['self_rewarding/pass_rate']:.2f}")
        self.training_bar.write("  ".join([*parts, f"{logs['step_time']:.1f} s"]))


def summarize(trainer, train_seconds: float) -> str:
    """Return the summary of a finished run: funnel, rewards, tokens, seconds, some instructions, and where all lies."""
    totals, counts, output_dir = trainer.loader.totals, trainer.loader.totals.counts, trainer.args.output_dir
    rejected = "".join(f", {count} {reason}" for reason, count in totals.rejected.most_common())
    rewards = [f"{entry['reward']:.2f}" for entry in trainer.state.log_history if entry.get("reward") is not None]
    seconds = {**totals.seconds, "training and the rest": train_seconds - totals.seconds.total()}
    accuracies = [f"{entry['eval_pass@1']:.3f}" for entry in trainer.state.log_history if "eval_pass@1" in entry]
    unused = counts["candidates"] - totals.rejected.total() - counts["admitted"]
    lines = [
        f"Steps           {trainer.state.global_step}, from {len(trainer.seeds.instructions)} seeds",
        f"Candidates      {counts['candidates']} instructions written in {totals.rounds} rounds",
        f"  rejected      {totals.rejected.total()} by their text{rejected}",
        f"  unused        {unused}, since their batch was full",
        f"  admitted      {counts['admitted']}, each answered {trainer.num_generations} times",
        f"  in the band   {counts['in_band']}, pass rate within "
        f"[{trainer.loader.min_pass_rate}, {trainer.args.max_pass_rate}]",
        *([f"  confirmed     {counts['kept']} by the slow weights"] if trainer.args.confirm_majority else []),
        f"Pass rate       {totals.mean_pass_rate:.2f} on average",
        f"Reward          {' '.join(rewards)}",
        *([f"pass@1          {' '.join(accuracies)}"] if accuracies else []),
        f"Tokens          {sum(counts[f'{what}_tokens'] for what in SAMPLED):,} sampled, "
        f"{counts['trained_tokens']:,} trained",
        f"Seconds         {', '.join(f'{stage} {value:.0f}' for stage, value in seconds.items())}",
        *(["Some of its instructions:"] if trainer.loader.last_batch else []),
        *(f"  - {group.instruction}" for group in trainer.loader.last_batch[-3:]),
        f"Model           {output_dir}",
        f"Log             {output_dir}/trainer_state.json",
        f'Ledger          load_dataset("parquet", data_files="{output_dir}/{LEDGER_FOLDER}/*.parquet")',
    ]
    return "\n".join(lines)

"""What a run did, in a few readable lines."""

from .ledger import LEDGER_FOLDER
from .serl_trainer import SeRLTrainer


def summarize(trainer: SeRLTrainer, train_seconds: float) -> str:
    """Return the summary of a finished run: funnel, rewards, tokens, seconds, some instructions, and where all lies.

    Args:
        trainer ([`SeRLTrainer`]): After `train`.
        train_seconds (`float`): What `train` took.
    """
    totals, counts = trainer.loader.totals, trainer.loader.totals.counts
    rejected = ", ".join(f"{count} {reason}" for reason, count in totals.rejected.most_common()) or "none"
    rewards = [f"{entry['reward']:.2f}" for entry in trainer.state.log_history if entry.get("reward") is not None]
    seconds = {**totals.seconds, "training": train_seconds - totals.seconds.total()}
    output_dir = trainer.args.output_dir
    lines = [
        f"Steps           {trainer.state.global_step}, from {len(trainer.loader.pool.seeds)} seeds",
        f"Candidates      {counts['candidates']} instructions written in {totals.rounds} rounds",
        f"  rejected      {totals.rejected.total()}: {rejected}",
        f"  admitted      {counts['admitted']}, each answered {trainer.num_generations} times",
        f"  in the band   {counts['in_band']}, pass rate within "
        f"[{trainer.args.min_pass_rate}, {trainer.args.max_pass_rate}]",
        f"Pass rate       {sum(totals.pass_rates) / max(len(totals.pass_rates), 1):.2f} on average",
        f"Reward          {' '.join(rewards)}",
        f"Tokens          {counts['instruction_tokens'] + counts['completion_tokens']:,} sampled, "
        f"{counts['trained_tokens']:,} trained",
        f"Seconds         {', '.join(f'{stage} {value:.0f}' for stage, value in seconds.items())}",
        "Some of its instructions:",
        *(f"  - {instruction}" for instruction in list(trainer.loader.pool.kept)[-3:]),
        f"Model           {output_dir}",
        f"Log             {output_dir}/trainer_state.json",
        f'Ledger          load_dataset("parquet", data_files="{output_dir}/{LEDGER_FOLDER}/*.parquet")',
    ]
    return "\n".join(lines)

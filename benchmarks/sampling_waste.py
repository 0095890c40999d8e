"""What is sampled in vain: completions trained of those sampled, by the loop's scheme and others, on the same votes.

    python benchmarks/sampling_waste.py

The small world of benchmarks/learning.py, 40 steps of 8 groups of 16 by the paper's rule, bands 0.2 to 0.8 and 0.2 to 0.9.
The votes of all groups in the order in which they were sampled then say what another scheme would have done. The
published one answers 8 instructions a round, until at least 8 groups are in the band, and drops what is over. Others that
answer so many each round carry over what the next batch needs, as the loop does.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from learning import GENERATIONS, GROUPS, SETTINGS
from worlds import WORLDS


STEPS = 40


def train(max_pass_rate: float, folder: Path) -> tuple[list[list[str | None]], float, float]:
    """Train by the paper's rule; return the answers of each group, our share of groups that are trained, and rounds."""
    from datasets import Dataset

    from serl_trl import SeRLConfig, SeRLTrainer

    world, output = WORLDS["small"], folder / "run"
    config = SeRLConfig(str(output), seed=0, **SETTINGS | {"max_steps": STEPS, "max_pass_rate": max_pass_rate})
    trainer = SeRLTrainer(str(world.start_model(folder)), config, Dataset.from_dict(world.seed_rows(0)))
    trainer.train()
    ledger = [row for path in sorted(output.glob("_ledger/*.parquet")) for row in pq.read_table(path).to_pylist()]
    groups = [row["answers"] for row in sorted(ledger, key=lambda row: row["id"]) if row["answers"]]
    rounds = [entry["self_instruction/rounds"] for entry in trainer.state.log_history if "reward" in entry]
    return groups, STEPS * GROUPS / len(groups), sum(rounds) / len(rounds)


def pass_rate(answers: list[str | None]) -> float:
    """Return the share of the answer that most gave, by text: these are whole numbers."""
    (_, count), *_ = Counter(answer for answer in answers if answer is not None).most_common(1) or [(None, 0)]
    return count / len(answers)


def fixed(in_band: list[bool], size: int, surplus: int = GROUPS) -> tuple[float, float]:
    """Return the share of groups that are trained and the rounds a batch, if each round answers `size` instructions.

    At most `surplus` groups are carried over to the next batch.
    """
    batches = kept = used = 0
    for answered in range(size, len(in_band) + 1, size):
        kept += sum(in_band[answered - size : answered])
        while kept >= GROUPS:  # a surplus of a whole batch needs no round
            batches, kept, used = batches + 1, min(kept - GROUPS, surplus), answered
    return batches * GROUPS / used, used / size / batches


def stopped(groups: list[list], look: int, most: int, max_pass_rate: float) -> tuple[float, float, float]:
    """Stop a group whose first `look` answers agree more often than `most`.

    Return completions for each group in the band, the share of these that is lost, and the mean pass rate of the others.
    """
    sampled, kept, lost = 0, [], 0
    for answers in groups:
        good = 0.2 <= pass_rate(answers) <= max_pass_rate
        first = round(pass_rate(answers[:look]) * look)
        sampled += look if first > most else len(answers)
        if good and first > most:
            lost += 1
        elif good:
            kept.append(pass_rate(answers))
    return sampled / len(kept), lost / (lost + len(kept)), sum(kept) / len(kept)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {band: train(band, Path(folder) / str(band)) for band in (0.8, 0.9)}
    print("| band | in the band | trained, ours | published scheme | ours / published |")
    print("| --- | --- | --- | --- | --- |")
    bands = {band: [0.2 <= pass_rate(answers) <= band for answers in groups] for band, (groups, *_) in runs.items()}
    for band, (_, ours, _) in runs.items():
        in_band, (other, _) = bands[band], fixed(bands[band], GROUPS, surplus=0)
        print(f"| 0.2 to {band} | {sum(in_band) / len(in_band):.2f} | {ours:.2f} | {other:.2f} | {ours / other:.2f} |")
    print("\n| band | a round answers | trained | rounds a batch |\n| --- | --- | --- | --- |")
    for band, (_, ours, rounds) in runs.items():
        print(f"| 0.2 to {band} | what is missing, by the yield so far | {ours:.2f} | {rounds:.2f} |")
        for factor in (1, 2, 4, 8):
            trained, needed = fixed(bands[band], factor * GROUPS)
            print(f"| 0.2 to {band} | {factor * GROUPS} | {trained:.2f} | {needed:.2f} |")
    print("\n| band | stop a group when | completions a trained group | saved | groups lost | mean pass rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for band, (groups, *_) in runs.items():
        whole, _, mean = stopped(groups, GENERATIONS, GENERATIONS, band)
        print(f"| 0.2 to {band} | never | {whole:.1f} | | | {mean:.2f} |")
        for look, most in ((4, 3), (8, 7), (8, 6), (12, 11)):
            each, lost, mean = stopped(groups, look, most, band)
            rule = f"{most + 1} of the first {look} agree"
            print(f"| 0.2 to {band} | {rule} | {each:.1f} | {1 - each / whole:.0%} | {lost:.0%} | {mean:.2f} |")


if __name__ == "__main__":
    main()

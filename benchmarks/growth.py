"""What grows with a run, at 100,000 admitted instructions: state, ledger, diversity filter, memory.

One core and no model: candidates are made of words that are as frequent as in a language, 10 to 60 in each, half of
them admitted. Times are CPU times of this process, so that other jobs on the machine count little.

    python benchmarks/growth.py
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memory import resident

from serl_trl import DiversityFilter, parse_instructions
from serl_trl.self_play import Ledger, MajorityLabels, ScriptedSampler, SelfInstruction, SelfPlayLoader
from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.settings import SelfPlaySettings
from serl_trl.training.resume import load_loader_state, save_loader_state


BATCH = 40  # candidates of a generation batch
WORDS = [f"word{number}" for number in range(2000)]
FREQUENCIES = [1 / rank for rank in range(1, 2001)]


def seconds(function: Callable, *args) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def texts(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, FREQUENCIES, k=rng.randint(10, 60))) for _ in range(count)]


def candidates(rng: random.Random, first: int) -> list[Candidate]:
    """Return a batch's candidates, as large as real ones: eight parents, sixteen answers."""
    written = texts(rng, BATCH)
    votes = {"nearest": written[0], "rouge_l": 0.3, "answers": ["12"] * 16, "rewards": [1.0] * 16, "pass_rate": 1.0}
    return [
        Candidate(first + n, 1, 1, text, written[:8], fate=("trained", "rejected")[n % 2], **votes)
        for n, text in enumerate(written)
    ]


def make_loader(output_dir: str, seeds: list[str]) -> SelfPlayLoader:
    settings, sampler = SelfPlaySettings(num_generations=16), ScriptedSampler(lambda prompt, index: "")
    source = SelfInstruction(settings, seeds, sampler, max_tokens=10_000)
    return SelfPlayLoader(settings, source, MajorityLabels(), sampler, Ledger(output_dir))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admitted", type=int, default=100_000)
    admitted = parser.parse_args().admitted
    rng, rows = random.Random(0), []
    seeds, batches = texts(rng, 100), 2 * admitted // BATCH
    reply = "\n".join(f"{number % 1000}. {text}" for number, text in enumerate(texts(rng, 20_000)))
    with tempfile.TemporaryDirectory() as output_dir:
        loader, latest, appends = make_loader(output_dir, seeds), [], []
        for batch in range(batches):  # each batch's rows, and once more those of the batch before, for its surplus
            written = candidates(rng, BATCH * batch)
            appends.append(
                seconds(loader.ledger.write, batch, written) + seconds(loader.ledger.write, batch - 1, latest)
            )
            latest = written
        early, late = (1000 * sum(part) / len(part) for part in (appends[:200], appends[-200:]))
        rows.append(("ledger, a step, first and last 200", f"{early:.1f} ms, {late:.1f} ms"))
        rows.append(("ledger, the largest single step: it merges 100 files", f"{1000 * max(appends):.0f} ms"))
        rows.append((f"ledger, files after {batches:,} batches", f"{len(loader.ledger.files())}"))

        checkpoint = Path(output_dir) / "checkpoint-1"
        source = {"next_id": BATCH * batches, "admitted": admitted, "kept": texts(rng, 2000)}
        state = loader.state_dict() | {"batch_index": batches, "source": source}
        save_loader_state(checkpoint, state)
        before = resident("VmRSS")
        took = seconds(lambda: loader.load_state_dict(load_loader_state(checkpoint)))
        grown = resident("VmRSS") - before
        rows.append(("resume: read the ledger, index its instructions", f"{took:.1f} s"))
        diversity = loader.source.filter
        size = sum(map(len, diversity.texts)) / 2**20
        rows.append((f"memory, for texts of {size:.0f} MiB", f"{grown / 2**20:.0f} MiB"))
        took = seconds(save_loader_state, checkpoint, loader.state_dict())
        size = (checkpoint / "serl_state.json").stat().st_size / 1e6
        rows.append(("state, a snapshot", f"{1e6 * min(seconds(loader.state_dict) for _ in range(20)):.0f} µs"))
        rows.append((f"state, {size:.2f} MB written", f"{1000 * took:.0f} ms"))

    judged = sorted(1000 * seconds(diversity.nearest, text) for text in texts(rng, 100))
    rows.append(
        (
            f"one candidate against {len(diversity.texts):,}, median and worst",
            f"{judged[50]:.1f} ms, {judged[-1]:.1f} ms",
        )
    )
    rows.append(("a reply of 20,000 lines, parsed", f"{seconds(parse_instructions, reply):.2f} s"))
    few = DiversityFilter(seeds)
    took = seconds(lambda: [(few.nearest(text), few.add([text])) for text in parse_instructions(reply)])
    rows.append(("a reply of 20,000 lines, all judged and admitted", f"{took:.1f} s"))
    print("| what | figure |\n| --- | --- |", *(f"| {name} | {figure} |" for name, figure in rows), sep="\n")


if __name__ == "__main__":
    main()

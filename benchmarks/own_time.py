"""The loop's own time for a generation batch: all that is neither sampling nor training, with scripted replies.

    python benchmarks/own_time.py
    python benchmarks/own_time.py --profile      # where it goes, in the trainer's process and in the vote's

Batches of 16 groups of 16 completions, of 75 or 700 words; 100 of these words are drawn anew for each completion. Half of
a group's answers are one number, in several forms. Seconds by the clock, means of five batches after the first, one core.
"""

import argparse
import cProfile
import pstats
import random
import tempfile
import time

from votes import WORDS

from serl_trl.self_play import Ledger, MajorityLabels, ScriptedSampler, SelfInstruction, SelfPlayLoader
from serl_trl.self_play.settings import SelfPlaySettings


BATCHES = 5
FORMS = ["12", "12.0", "\\frac{24}{2}", "\\frac{36}{3}", "3 \\cdot 4"]
SETTINGS = {
    "num_generations": 16,
    "generation_batch_size": 256,
    "min_pass_rate": 0.2,
    "max_pass_rate": 0.9,
    "min_words": 1,
    "diversity_threshold": 1.0,
}


def make_loader(method: str, words: int, folder: str) -> SelfPlayLoader:
    """Return a loader whose sampler writes two instructions a request, and completions of so many words."""
    rng = random.Random(0)

    def reply(prompt, index: int) -> str:
        if prompt[-1]["role"] == "assistant":
            return "\n".join(f"{n}. What is {rng.randint(10, 99)} times {rng.randint(10, 99)}?" for n in (9, 10))
        own = " ".join(rng.choices(WORDS, k=min(words, 100)))
        return f"{own} {'and so on ' * ((words - 100) // 3)} \\boxed{{{rng.choice(FORMS) if index % 2 else index}}}."

    settings = SelfPlaySettings(method=method, **SETTINGS)
    # Slow weights are surer.
    sampler = ScriptedSampler(reply, slow_reply=lambda prompt, index: f"{'so ' * words} \\boxed{{12}}.")
    seeds = [f"What is {number} times {number + 7}?" for number in range(10, 60)]
    source = SelfInstruction(settings, seeds, sampler, max_tokens=10_000)
    return SelfPlayLoader(settings, source, MajorityLabels(), sampler, Ledger(folder))


def own_seconds(method: str, words: int) -> tuple[float, dict[str, float]]:
    """Return the seconds of a batch, and those of its stages; the replies are made beforehand where they take long."""
    with tempfile.TemporaryDirectory() as folder:
        loader = make_loader(method, words, folder)
        next(loader)  # starts the vote's processes
        start, stages = time.perf_counter(), {}
        for _ in range(BATCHES):
            metrics = next(loader).metrics
            for name in ("self_instruction", "sampling", "vote", "confirmation"):
                stages[name] = stages.get(name, 0.0) + metrics[f"time/{name}"] / BATCHES
        return (time.perf_counter() - start) / BATCHES, stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    profile = parser.parse_args().profile
    print("| method | words | a batch, s | self-instruction | vote | confirmation | the rest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for method in ("paper", "trusted"):
        for words in (75, 700):
            total, stages = own_seconds(method, words)
            total -= stages.pop("sampling")  # of scripted replies
            rest = total - sum(stages.values())
            cells = [total, stages["self_instruction"], stages["vote"], stages["confirmation"], rest]
            print(f"| {method} | {words} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    if profile:
        with cProfile.Profile() as profiler:
            own_seconds("trusted", 700)
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    main()

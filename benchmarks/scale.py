"""On paper: what a step costs for larger models and GPUs, and which part of it dominates.

    python benchmarks/scale.py

Seconds of a step of 16 groups of 16, completions of 512 tokens, instructions of 60, twice as many groups answered as
trained. A token is decoded as fast as the weights (16 bits) and the cache of all sequences are read, at 60 % of the
memory's bandwidth, or as 2 operations a weight are done; training takes 8 operations a weight and token (forward, again
for checkpointing, backward) and 2 for each of the old and the reference's log-probabilities, at 35 % of the peak. Votes
and filters are those of own_time.py. QLoRA decodes with transformers, which a factor of 3 stands for.
"""

import argparse
from dataclasses import dataclass


GROUPS, COMPLETIONS, LENGTH, PROMPT, ANSWERED = 16, 16, 512, 150, 2.0
INSTRUCTION, REQUEST = 60, 600  # tokens of one, and of a request with its eight examples
READING, COMPUTING = 0.6, 0.35  # of bandwidth and of peak, as large runs are reported
SEQUENCES = 256  # that vLLM decodes at once
OWN_SECONDS = 0.02  # of votes and filters, a group that is answered (own_time.py)


@dataclass(frozen=True)
class Model:
    """Billions of weights, layers, and features of all key heads of a layer."""

    weights: float
    layers: int
    key_value: int


@dataclass(frozen=True)
class Gpu:
    """Terabytes a second, and 10^12 operations a second in bfloat16 (dense), from the makers' data sheets."""

    bandwidth: float
    peak: float


MODELS = {
    "Qwen2.5-0.5B": Model(0.49, 24, 128),
    "Qwen2.5-3B": Model(3.09, 36, 256),
    "Qwen2.5-7B": Model(7.62, 28, 512),
}
GPUS = {"24 GB (RTX 4090)": Gpu(1.01, 165), "80 GB (H100)": Gpu(3.35, 989)}
# What `serl-trl plan` lets train on them: method, number of GPUs.
CASES = [
    ("Qwen2.5-0.5B", "24 GB (RTX 4090)", 1, "full"),
    ("Qwen2.5-3B", "24 GB (RTX 4090)", 1, "LoRA"),
    ("Qwen2.5-7B", "24 GB (RTX 4090)", 1, "QLoRA"),
    ("Qwen2.5-0.5B", "80 GB (H100)", 1, "full"),
    ("Qwen2.5-3B", "80 GB (H100)", 1, "LoRA"),
    ("Qwen2.5-7B", "80 GB (H100)", 1, "LoRA"),
    ("Qwen2.5-0.5B", "80 GB (H100)", 8, "full"),
    ("Qwen2.5-3B", "80 GB (H100)", 8, "full"),
    ("Qwen2.5-7B", "80 GB (H100)", 8, "full"),
]


def decoding(model: Model, gpu: Gpu, sequences: float, prompt: int, length: int) -> float:
    """Return the seconds in which one GPU writes `length` tokens for each of some sequences."""
    together = min(sequences, SEQUENCES)
    cache = together * (prompt + length / 2) * model.layers * 2 * model.key_value * 2
    reading = (2e9 * model.weights + cache) / (READING * 1e12 * gpu.bandwidth)
    computing = 2e9 * model.weights * together / (COMPUTING * 1e12 * gpu.peak)
    return max(sequences / SEQUENCES, 1) * length * max(reading, computing)


def step(model: Model, gpu: Gpu, number: int, method: str) -> dict[str, float]:
    """Return the seconds of a step by part; the work is shared by all GPUs, votes and filters are not."""
    factor = 3 if method == "QLoRA" else 1
    completions = ANSWERED * GROUPS * COMPLETIONS / number
    requests = 2 * ANSWERED * GROUPS / 8 / number  # half of what is written is rejected, eight come of a request
    tokens = GROUPS * COMPLETIONS * (PROMPT + LENGTH) / number
    return {
        "self-instruction": factor * decoding(model, gpu, requests, REQUEST, 8 * INSTRUCTION),
        "sampling": factor * decoding(model, gpu, completions, PROMPT, LENGTH),
        "training": 12e9 * model.weights * tokens / (COMPUTING * 1e12 * gpu.peak),
        "votes and filters": OWN_SECONDS * ANSWERED * GROUPS / number,
        "weights to vLLM": 2 * 2e9 * model.weights / (READING * 1e12 * gpu.bandwidth) * (method != "QLoRA"),
    }


def check() -> str:
    """Return the arithmetic beside what others measured."""
    model, gpu, tokens = Model(8.03, 32, 1024), GPUS["80 GB (H100)"], 2048 * (PROMPT + 800) / 8
    training, logps = (count * 1e9 * model.weights * tokens / (COMPUTING * 1e12 * gpu.peak) for count in (8, 4))
    shortest, longest = (decoding(model, gpu, sequences, PROMPT, n) for sequences, n in ((256, 800), (32, 3300)))
    return (
        "Beside it, Llama-3.1-8B on eight H100 with 2048 completions of 800 tokens on average (NVIDIA-NeMo/RL#959): "
        f"training 28 to 40 s, here {training:.0f}; log-probabilities 18 to 19 s, here {logps:.0f}; generation 55 to 58 "
        f"s, here {shortest:.0f} if all were as long as the average, and {longest:.0f} more if one of eight went on to "
        "4096 tokens."
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    parts = list(step(MODELS["Qwen2.5-3B"], GPUS["80 GB (H100)"], 1, "LoRA"))
    print(f"| model | GPUs | method | {' | '.join(parts)} | a step | server on as many GPUs again |")
    print("| --- " * (len(parts) + 5) + "|")
    for name, device, number, method in CASES:
        found = step(MODELS[name], GPUS[device], number, method)
        total = sum(found.values())
        # With a server the trainer's GPUs wait while it samples, and the other way round: what doubles is the sampling's.
        found_by_server = total - (found["self-instruction"] + found["sampling"]) / 2
        cells = [f"{seconds:.1f}" for seconds in [*found.values(), total, found_by_server]]
        print(f"| {name} | {number} x {device} | {method} | {' | '.join(cells)} |")
    print(f"\n{check()}")


if __name__ == "__main__":
    main()

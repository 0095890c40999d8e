"""vLLM on the CPU as TRL starts it (the checkpoint's bfloat16, compiled) against as serl-trl does (float32, eager).

    python benchmarks/vllm_cpu.py

Each engine runs in a process of its own, one after the other, on SmolLM2-135M-Instruct: seconds to start, and tokens a
second for 16 prompts of 64 tokens each, in the second of two rounds.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from demo_model import make_demo_model  # noqa: E402


SETTINGS = {
    "TRL's": {},
    "serl-trl's": {"dtype": "float32", "enforce_eager": True, "block_size": 32},
}


def measure(settings: dict) -> dict[str, float]:
    """Start an engine and sample; return seconds to start and tokens a second."""
    from vllm import LLM, SamplingParams

    start = time.perf_counter()
    llm = LLM(
        model=str(make_demo_model()),
        max_model_len=1024,
        max_num_seqs=16,
        max_num_batched_tokens=4096,
        logprobs_mode="processed_logprobs",
        **settings,
    )
    started = time.perf_counter() - start
    chats = [[{"role": "user", "content": f"What is {number} + 7?"}] for number in range(16)]
    sampling = SamplingParams(temperature=0.7, max_tokens=64, ignore_eos=True, logprobs=0)
    for _ in range(2):
        start = time.perf_counter()
        outputs = llm.chat(chats, sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
    return {"start": started, "tokens_per_second": sum(len(o.outputs[0].token_ids) for o in outputs) / seconds}


def main() -> None:
    if len(sys.argv) > 1:
        print("RESULT", json.dumps(measure(json.loads(sys.argv[1]))))
        return
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}
    results = {}
    for name, settings in SETTINGS.items():
        command = [sys.executable, __file__, json.dumps(settings)]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        results[name] = json.loads(output.split("RESULT", 1)[1].splitlines()[0])
        print(
            f"{name:12} {results[name]['start']:6.1f} s to start  {results[name]['tokens_per_second']:6.1f} tokens/s"
        )
    ours, theirs = results["serl-trl's"], results["TRL's"]
    print(f"start {theirs['start'] / ours['start']:.1f} x faster, ", end="")
    print(f"sampling {ours['tokens_per_second'] / theirs['tokens_per_second']:.1f} x faster")


if __name__ == "__main__":
    main()

"""The way to vLLM: tokens a second within SeRL's calls, and what a transfer of weights takes. SmolLM2-135M on one core.

    python benchmarks/engine.py

Sampling: 32 prompts, 8 completions of 16 tokens each, in turns with the same requests in one call of `LLM.generate`.
Weights: medians of five. LoRA has rank 32 on all linear layers of a base in bfloat16; ours merges a layer at a time in a
copy, TRL merges into the base and takes the adapter out again. Both then go through the same call of vLLM.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import MethodType


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
PROMPTS, COMPLETIONS, TOKENS = 32, 8, 16
TRL = "TRL's"
SETTINGS = {
    "method": "paper",
    "use_cpu": True,
    "bf16": False,
    "beta": 0.0,
    "max_steps": 1,
    "num_generations": COMPLETIONS,
    "per_device_train_batch_size": COMPLETIONS,
    "gradient_accumulation_steps": 4,
    "max_completion_length": TOKENS,
    "generation_kwargs": {"ignore_eos": True},  # all of one length
    "max_instruction_length": 64,
    "vllm_max_model_length": 512,
    "report_to": "none",
    "disable_tqdm": True,
}


def make_trainer(output: str, lora: bool):
    from demo_model import make_demo_model
    from peft import LoraConfig

    from serl_trl import SeRLConfig, SeRLTrainer
    from serl_trl.plan import LORA

    dtype = {"model_init_kwargs": {"dtype": "bfloat16"}} if lora else {}
    seeds = [f"What is {number} + {number + 7}?" for number in range(10, 60)]
    peft_config = LoraConfig(**LORA, task_type="CAUSAL_LM") if lora else None
    return SeRLTrainer(str(make_demo_model()), SeRLConfig(output, **SETTINGS | dtype), seeds, peft_config=peft_config)


def seconds(function, *args) -> float:
    """Return the seconds of a call by the clock."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def tokens_a_second(trainer) -> list[str]:
    """Sample in turns through the trainer and directly; return the rows of the table."""
    from vllm import SamplingParams

    from serl_trl.self_play import answer_prompt

    trainer.model.train()
    loader, engine = trainer.loader, trainer.vllm_generation
    texts = [f"How many legs have {number} cats and {number + 3} hens?" for number in range(PROMPTS)]
    prompts = loader.sampler.tokenize([answer_prompt(text, loader.template) for text in texts])
    repeated = [{"prompt_token_ids": ids} for ids in prompts for _ in range(COMPLETIONS)]
    sampling = SamplingParams(temperature=1.0, max_tokens=TOKENS, ignore_eos=True, logprobs=engine.logprobs)
    loader.sampler.sample(prompts, COMPLETIONS)  # the weights go to vLLM once
    ways = {
        "`LLM.generate`": lambda: engine.llm.generate(repeated, sampling, use_tqdm=False),
        "within SeRL's calls": lambda: loader.sampler.sample(prompts, COMPLETIONS),
    }
    took = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            engine.llm.reset_prefix_cache()
            took[name].append(seconds(way))
    total = PROMPTS * COMPLETIONS * TOKENS
    pairs = zip(*took.values(), strict=True)
    ratio = statistics.median(direct / ours for direct, ours in pairs)
    rows = [f"| tokens a second, {name} | {total / statistics.median(times):.0f} | |" for name, times in took.items()]
    return [*rows[:1], f"{rows[1].removesuffix('|')} {ratio:.2f} x |"]


def full_sync(trainer) -> list[str]:
    """Return the row of a transfer of all weights, beside a copy of their bytes."""
    engine = trainer.vllm_generation
    weights = [parameter.data for parameter in trainer.model.parameters()]
    copy = statistics.median(seconds(lambda: [weight.clone() for weight in weights]) for _ in range(5))
    sync = statistics.median(seconds(engine.sync_weights) for _ in range(5))
    size = sum(weight.nbytes for weight in weights) / 1e6
    return [
        f"| a copy of the weights ({size:.0f} MB), s | {copy:.2f} | |",
        f"| all weights to vLLM, s | {sync:.2f} | {sync / copy:.1f} x the copy |",
    ]


def lora_sync(trainer) -> list[str]:
    """Return the rows of a transfer with an adapter merged in, ours and TRL's, and what 100 merges do to the base."""
    import torch
    from gpu_parts.lora import base_weights, changed_share
    from trl.generation.vllm_generation import VLLMGeneration

    engine, rows, found = trainer.vllm_generation, [], {}
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=1e-3)
    ways = {TRL: MethodType(VLLMGeneration._iter_named_params, engine), "ours": engine._iter_named_params}
    for name in ("ours", TRL):  # TRL's last: it changes the base
        engine._iter_named_params = ways[name]
        before = base_weights(trainer.model)
        found[name] = statistics.median(seconds(engine.sync_weights) for _ in range(5))
        for _ in range(95):
            for _ in ways[name]():
                pass
        rows.append((name, found[name], changed_share(before, trainer.model)))
    return [
        f"| LoRA to vLLM, {name}, s | {took:.2f} | {took / found[TRL]:.2f} x TRL's; "
        f"{100 * changed:.1f} % of the base's weights changed after 100 |"
        for name, took, changed in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    rows = []
    with tempfile.TemporaryDirectory() as output:
        trainer = make_trainer(output, lora=False)
        rows += tokens_a_second(trainer) + full_sync(trainer)
    with tempfile.TemporaryDirectory() as output:
        rows += lora_sync(make_trainer(output, lora=True))
    print("| what | figure | beside it |\n| --- | --- | --- |", *rows, sep="\n")


if __name__ == "__main__":
    main()

"""`serl-trl plan` against what training really takes: SmolLM2-135M on the CPU, peak memory by method.

Each case trains two steps in a process of its own, on prompts and completions of the planned length, with transformers
generation, in float32. Measured is the process's highest resident memory less that before the model is loaded, with an
allocator that gives freed memory back at once.

    python benchmarks/memory.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
COMPLETION_LENGTH = 96
# glibc maps each larger block by itself, so that it goes back to the system when it is freed (mallopt(3)).
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "1"}
CASES = {
    "full": {},
    "full, with a reference model": {"beta": 0.001},
    "full, without gradient checkpointing": {"gradient_checkpointing": False},
    "full, twice the batch": {"per_device_train_batch_size": 16},
    "lora": {"method": "lora"},
    "lora, without gradient checkpointing": {"method": "lora", "gradient_checkpointing": False},
}


def resident(name: str) -> int:
    """Return the bytes of `VmRSS` (now) or `VmHWM` (the highest so far) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(case: dict, output: str) -> None:
    """Train two steps; print the measured peak, and the planned one by parts, as JSON."""
    from datasets import Dataset
    from demo_model import make_demo_model
    from peft import LoraConfig
    from transformers import AutoConfig

    from serl_trl import SeRLConfig, SeRLTrainer
    from serl_trl.memory import Workload, budget
    from serl_trl.plan import LORA, planned_sizes
    from serl_trl.self_play.prompt import answer_prompt, load_template

    settings = {"gradient_checkpointing": True, "beta": 0.0, "per_device_train_batch_size": 8} | case
    method = settings.pop("method", "full")
    seeds = {"instruction": [f"What is {n} + {n + 1}?" for n in range(10, 50)], "answer": ["1"] * 40}
    config = SeRLConfig(
        output,
        use_cpu=True,
        bf16=False,
        use_vllm=False,
        max_steps=2,
        num_generations=8,
        gradient_accumulation_steps=2,  # the second batch meets the gradients of the first
        max_completion_length=COMPLETION_LENGTH,
        generation_kwargs={"min_new_tokens": COMPLETION_LENGTH},  # all as long as planned
        instruction_source="seeds",
        label_source="true_answer",
        min_pass_rate=0.0,
        max_pass_rate=1.0,
        save_strategy="no",
        report_to="none",
        **settings,
    )
    model = str(make_demo_model())
    lora = LoraConfig(**LORA, task_type="CAUSAL_LM")
    sizes = planned_sizes(AutoConfig.from_pretrained(model))
    before = resident("VmRSS")
    trainer = SeRLTrainer(model, config, Dataset.from_dict(seeds), peft_config=lora if method == "lora" else None)
    trainer.train()
    measured = resident("VmHWM") - before
    prompts = [answer_prompt(seed, load_template("math")) for seed in seeds["instruction"]]
    work = Workload(
        method=method,
        per_device_train_batch_size=config.per_device_train_batch_size,
        sequences=config.generation_batch_size,
        prompt_length=max(len(ids) for ids in trainer.loader.sampler.tokenize(prompts)),
        completion_length=COMPLETION_LENGTH,
        reference=config.beta != 0,
        half=False,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    print(json.dumps({"measured": measured, "planned": budget(sizes, work)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case is not None:
        with tempfile.TemporaryDirectory() as output:
            measure(args.case, output)
        return
    print("| case | measured, MiB | planned, MiB | planned / measured |\n| --- | --- | --- | --- |")
    for name, case in CASES.items():
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | GIVE_BACK)
        found = json.loads(result.stdout.splitlines()[-1])
        planned = sum(found["planned"].values())
        print(
            f"| {name} | {found['measured'] / 2**20:.0f} | {planned / 2**20:.0f} | {planned / found['measured']:.2f} |"
        )


if __name__ == "__main__":
    main()

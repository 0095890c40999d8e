"""The parts of benchmarks/gpu.py: each trains in a process of its own and returns what it measured as plain data."""

from dataclasses import fields
from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from serl_trl import SeRLConfig, SeRLTrainer
from serl_trl.engine.vllm import prepare_vllm
from serl_trl.engine.vllm_cpu import started_on_cpu
from serl_trl.plan import LEARNING_RATES, LORA
from serl_trl.rewards import accuracy_reward
from serl_trl.seeds import read_seeds
from serl_trl.self_play import answer_prompt, load_template

from .learning import learning
from .lora import KeepAdapters, base_weights, changed_share, compare_syncs
from .recorder import device_memory, machine, measure


# For SmolLM2-135M-Instruct, whose answers wander at temperature 1 and at the paper's presence penalty (docs/runs.md).
SETTINGS = {
    "method": "paper",  # the loop beside TRL's trainer, without evidence and confirmation
    "bf16": True,
    "use_vllm": True,
    "temperature": 0.7,
    "instruction_presence_penalty": 1.0,
    "num_generations": 16,
    "per_device_train_batch_size": 16,
    "max_completion_length": 512,
    "max_instruction_length": 384,  # with eight of the longest GSM8K questions just within the context
    "vllm_max_model_length": 2048,
    "vllm_gpu_memory_utilization": 0.25,
    "max_rounds": 64,  # so small a model seldom agrees with itself
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def run_part(name: str, arguments: dict) -> dict:
    """Run a part; return its measures, and the machine it ran on."""
    if name == "learning":
        found = learning(arguments, read_settings(arguments))
    else:
        found = {"steps": steps, "grpo": grpo, "lora": lora, "sleep": sleep}[name](arguments)
    return found | {"machine": machine()}


def read_settings(arguments: dict, method: str = "full") -> dict:
    """Return the settings of a part: those above, and the user's, which have the last word."""
    on_cpu = {} if torch.cuda.is_available() else {"use_cpu": True, "bf16": False}
    settings = SETTINGS | on_cpu | {"learning_rate": LEARNING_RATES[method]} | arguments["settings"]
    settings["max_steps"] = arguments["steps"]
    if method == "lora":
        settings["model_init_kwargs"] = {**settings.get("model_init_kwargs", {}), "dtype": "bfloat16"}
    return settings


def steps(arguments: dict) -> dict:
    """SeRL, full fine-tuning."""
    return self_play(arguments, "steps", "full")


def sleep(arguments: dict) -> dict:
    """The same with vLLM's sleep mode, which there is on GPUs only."""
    return self_play(arguments, "sleep", "full", vllm_enable_sleep_mode=torch.cuda.is_available())


def lora(arguments: dict) -> dict:
    """SeRL with an adapter on a base in bfloat16; its weight sync against TRL's own."""
    return self_play(arguments, "lora", "lora")


def self_play(arguments: dict, name: str, method: str, **changes) -> dict:
    """Train by self-play and measure it."""
    from peft import LoraConfig

    output = Path(arguments["output"]) / name
    config = SeRLConfig(str(output), **read_settings(arguments, method) | changes)
    adapter = LoraConfig(**LORA, task_type="CAUSAL_LM") if method == "lora" else None
    with device_memory() as memory:
        trainer = SeRLTrainer(arguments["model"], config, arguments["seeds"], peft_config=adapter)
        if method == "full":
            return measure(trainer, method, memory)
        before, adapters = base_weights(trainer.model), KeepAdapters()
        trainer.add_callback(adapters)
        measured = measure(trainer, method, memory)
    syncs = {"changed after training": changed_share(before, trainer.model)}
    return measured | {"syncs": syncs | compare_syncs(trainer, before, adapters.states)}


def grpo(arguments: dict) -> dict:
    """TRL's trainer with the same model and settings, on the seeds and their true answers."""
    output = str(Path(arguments["output"]) / "grpo")
    config = SeRLConfig(output, **read_settings(arguments))
    seeds, template = read_seeds(arguments["seeds"]), load_template(config.prompt_template)
    prompts = [answer_prompt(instruction, template) for instruction in seeds.instructions]
    rows = Dataset.from_dict({"prompt": prompts, "answer": list(seeds.true_answers.values())})
    # `steps_per_generation` follows from the generation batch; TRL takes one of the two.
    names = {field.name for field in fields(GRPOConfig) if field.init} - {"steps_per_generation"}
    plain = GRPOConfig(**{name: getattr(config, name) for name in names})
    with device_memory() as memory:
        with started_on_cpu(plain):
            trainer = GRPOTrainer(arguments["model"], accuracy_reward, args=plain, train_dataset=rows)
        if not torch.cuda.is_available():
            prepare_vllm(trainer)  # on a CPU, TRL's way of pushing weights does not reach vLLM
        return measure(trainer, "full", memory)

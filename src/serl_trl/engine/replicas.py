"""Several vLLM engines, each in a process of its own on its own GPUs: vLLM runs only one in a process."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from unittest.mock import patch

import torch

from ..self_play.carriers import Completion


class Replicas:
    """An engine (see `standalone.py`) that shares the prompts out to replicas of another.

    There are `count` replicas, each of which calls `load` in its process and has `num_gpus` GPUs.
    """

    def __init__(self, load: Callable, count: int, num_gpus: int):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(index) for index in range(torch.accelerator.device_count())]
        self.processes = {}
        on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # handed down: Ctrl-C is for this process alone
        for rank in range(count):
            own_gpus = ",".join(gpus[rank * num_gpus : (rank + 1) * num_gpus])
            connection, other_end = get_context("spawn").Pipe()
            process = get_context("spawn").Process(target=_serve, args=(load, other_end))
            with patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": own_gpus}):
                process.start()
            other_end.close()  # so that the connection ends with the process
            self.processes[connection] = process
        signal.signal(signal.SIGINT, on_interrupt)

    def __call__(
        self, prompt_ids: Sequence[list[int]], num_completions: int, done: Collection[int]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield what the replicas finish; raise `ChildProcessError` if one fails or is killed."""
        numbers = range(len(prompt_ids))
        missing = [number for number in numbers if number not in done]
        working = list(self.processes)
        for rank, connection in enumerate(working):
            own = missing[rank :: len(working)]
            with suppress(OSError):  # of one that has ended, which is seen below
                connection.send((prompt_ids, num_completions, set(numbers).difference(own)))
        while working:
            for connection in wait(working):
                message = self._receive(connection)
                if message is None:
                    working.remove(connection)
                else:
                    yield message

    def _receive(self, connection: Connection):
        try:
            message = connection.recv()
        except (EOFError, OSError):
            process = self.processes[connection]
            process.join()
            message = f"it was killed (exit code {process.exitcode})"
        if isinstance(message, str):
            raise ChildProcessError(
                f"A replica of vLLM has ended: {message}. What was sampled is kept; the same command goes on with it."
            )
        return message

    def close(self) -> None:
        """End the processes: by themselves within five seconds, or else at once."""
        deadline = time.monotonic() + 5
        for connection in self.processes:
            connection.close()
        for process in self.processes.values():
            process.join(max(deadline - time.monotonic(), 0))
            process.kill()
            process.join()


def _serve(load: Callable, connection: Connection) -> None:
    """Load the engine, and answer each request with what it finishes, then `None`; with a text if there is an error."""
    try:
        engine = load()
        while True:
            for finished in engine(*connection.recv()):
                connection.send(finished)
            connection.send(None)
    except (EOFError, ConnectionError):
        return  # the evaluation has ended
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")

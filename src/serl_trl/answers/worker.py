"""A process that can be killed, for functions that may never return: sympy on what a model writes.

    trainer ──starts once──> nursery.py, which imports math-verify ──forks──> worker
       └───────────────── calls, one at a time ──────────────────────────────────┘

A worker over its time or memory dies, and its successor is forked in milliseconds. The trainer's process sets no alarm.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from threading import Lock


LOAD_SECONDS = 60.0  # a format of the user's may import much

_numbers = count()
_lock = Lock()
_nursery: tuple[subprocess.Popen, Connection] | None = None
_idle: list["Worker"] = []  # as many as there were calls at the same time, from threads


class OverBudget(RuntimeError):
    """A call took more time or memory than it may."""


class Worker:
    """Runs module-level functions by name in a process of its own; see [`borrowed_worker`]."""

    def __init__(self):
        self.number, self.connection = next(_numbers), None

    def start(self, function: Callable, *arguments) -> None:
        """Fork the process, in place of the one before, from one that has called `function(*arguments)`."""
        ours, theirs = socket.socketpair()
        with theirs, _lock:
            control = _running_nursery()
            control.send((self.number, function, arguments))
            send_handle(control, theirs.fileno(), None)
        self.connection = Connection(ours.detach())

    def call(self, function: Callable, *arguments, seconds: float, cpu_seconds: float):
        """Return `function(*arguments)`.

        Args:
            function (`Callable`), arguments: As pickle takes them.
            seconds (`float`): What the call may take by the clock.
            cpu_seconds (`float`): What it may take of a processor, so that a busy machine turns nothing away.

        Raises:
            OverBudget: if it takes more, or the process ends for another reason; the next call needs [`start`].
            ValueError: with its words, if the function raises an error.
        """
        connection, self.connection = self.connection, None  # an interrupted call must not leave its reply to the next
        try:
            connection.send((function, arguments, cpu_seconds))
            if not connection.poll(seconds):
                raise OverBudget(f"{seconds:.1f} s have passed without a reply.")
            result, error = connection.recv()
        except (EOFError, OSError) as ended:
            raise OverBudget(f"{cpu_seconds:.1f} s of CPU time or the memory were not enough.") from ended
        self.connection = connection
        if error is not None:
            raise ValueError(error)
        return result


@contextmanager
def borrowed_worker() -> Iterator[Worker]:
    """Lend a worker that no other thread uses to the block."""
    try:
        worker = _idle.pop()
    except IndexError:
        worker = Worker()
    try:
        yield worker
    finally:
        _idle.append(worker)


def _running_nursery() -> Connection:
    """Start a fresh interpreter: a fork of the trainer would copy threads and CUDA, and `spawn` run the user's script."""
    global _nursery
    if _nursery and _nursery[0].poll() is None:
        return _nursery[1]
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.nursery", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if sys.stderr else subprocess.DEVNULL,  # a daemon has none
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is the trainer's
        )
    control = Connection(ours.detach())
    try:
        control.recv()
    except EOFError:
        raise RuntimeError(f"The process that reads answers ended with {process.wait()}; see above why.") from None
    _nursery = process, control
    return control


def _forget() -> None:
    """In a fork of this process: its workers are not the fork's, and they end when this process does."""
    global _nursery, _lock
    _nursery, _lock = None, Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)

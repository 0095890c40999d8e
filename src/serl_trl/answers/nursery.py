"""The process that forks workers, run by worker.py: python -m serl_trl.answers.nursery FD

It has imported math-verify, so that a worker is there in milliseconds. It ends with the trainer, however that ends, and
its workers with it.
"""

import gc
import os
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from .in_worker import equal_answers
from .worker import LOAD_SECONDS


_MAX_BYTES = 2 << 30  # what a worker may allocate; macOS does not enforce it
# Sympy imports parts of itself when they are used: here once, not in each worker.
_WARM_UP = ("so it is \\boxed{\\frac{\\sqrt{3}}{2} + 1/7}", False), ("$x^{2} = -0.5$", False)


def fork_workers(control: Connection) -> None:
    """Fork a worker for each number and socket that come, in place of the one of that number, until the trainer ends."""
    workers: dict[int, int] = {}
    while True:
        try:
            number, function, arguments = control.recv()
        except (EOFError, OSError):
            for number in list(workers):
                end(workers.pop(number))
            return
        connection = Connection(recv_handle(control))
        if number in workers:
            end(workers.pop(number))
        signal.setitimer(signal.ITIMER_REAL, LOAD_SECONDS)  # SIGALRM has no handler: it kills
        with suppress(Exception):  # the trainer has the worker call it again, and hears of its errors
            function(*arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if pid := os.fork():
            workers[number] = pid
            connection.close()
        else:
            control.close()
            serve(connection)
            return


def end(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def serve(connection: Connection) -> None:
    """Answer calls until the trainer hangs up; one that takes too much CPU time or memory ends the process."""
    while True:
        try:
            function, arguments, cpu_seconds = connection.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # SIGPROF has no handler: it kills
        try:
            reply = function(*arguments), None
        except MemoryError:
            return
        except Exception as error:
            reply = None, str(error) or repr(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(reply)


def main() -> None:
    control = Connection(int(sys.argv[1]))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # math-verify logs whole completions
    equal_answers(*_WARM_UP, "math")
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
    gc.freeze()  # what a collection does not touch stays shared between the workers
    control.send("ready")
    fork_workers(control)


if __name__ == "__main__":
    main()

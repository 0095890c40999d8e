"""The process that forks workers, run by worker.py: python -m serl_trl.answers.nursery FD

It has imported math-verify, so that a worker is there in milliseconds. It ends with the trainer, however that ends, and
its workers with it.
"""

import gc
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import Connection

from .comparing import answers_equal
from .reading import parse_answer


_MAX_BYTES = 2 << 30  # what a worker may allocate; macOS does not enforce it


def fork_workers(control: socket.socket) -> None:
    """Fork a worker for each number and socket that come, in place of the one of that number, until the trainer ends."""
    workers: dict[bytes, int] = {}
    while True:
        number, sockets, *_ = socket.recv_fds(control, 4, 1)
        ended = [number] if number else list(workers)
        for worker in [workers.pop(number) for number in ended if number in workers]:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
        if not number:
            return
        if pid := os.fork():
            workers[number] = pid
            os.close(sockets[0])
        else:
            control.close()
            serve(Connection(sockets[0]))
            return


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
    control = socket.socket(fileno=int(sys.argv[1]))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stderr.fileno())  # math-verify logs whole completions
    answers_equal(*map(parse_answer, ("\\boxed{\\frac{\\sqrt{3}}{2}}", "so $0.5$")))  # sympy imports parts when used
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
    gc.freeze()  # what a collection does not touch stays shared between the workers
    control.sendall(b"ready")
    fork_workers(control)


if __name__ == "__main__":
    main()

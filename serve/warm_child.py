"""The process that jobs of one lane are forked from: `python -m serve.warm_child MODULE...`, started by serve.warm.

It does the lane's imports, which take seconds, once. Then it reads from its stdin, a socket, the folder of a job together
with the job's log and line, and forks a process that goes on as serve.job_child. It ends with the server, and when nothing
was asked of it for a while.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from serve.job_child import main as do_job
from serve.warm import READY

IDLE_S = 900.0
"""After this long without a job the memory is given back."""

_PR_SET_PDEATHSIG = 1


def main(modules: Sequence[str]) -> int:
    """Fork jobs until the server is gone, or there is nothing to do."""
    from core.cli import _quiet_dependencies

    server = socket.socket(fileno=os.dup(0))
    # Also in the middle of the imports; the jobs do not inherit it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _closed(server):  # it was killed before this process could ask for that
        return 0
    _quiet_dependencies()
    for module in modules:
        import_module(module)
    # The jobs' ends are told by their lines; nobody waits for them here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What is imported stays shared with the jobs: a collection would write to it.
    gc.collect()
    gc.freeze()
    folder = _asked(server)
    return 0 if folder is None else do_job(folder)


def _closed(server: socket.socket) -> bool:
    try:
        return not server.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _asked(server: socket.socket) -> Path | None:
    """Fork a process for each job. In such a process: the folder of its job; in this one, None at the end."""
    server.settimeout(IDLE_S)
    with server:
        try:
            server.send(READY)
            while True:
                folder, fds, _, _ = socket.recv_fds(server, 65536, 2)
                if not folder:
                    return None
                if os.fork() == 0:
                    break
                for fd in fds:
                    os.close(fd)
        except (TimeoutError, ConnectionError):
            return None
    _begin(*fds)
    return Path(os.fsdecode(folder))


def _begin(log: int, line: int) -> None:
    """Make the forked process what a started one would be; then say its id on its line, which stays open until it ends."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.set_inheritable(line, False)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # else every job would draw the same numbers
    os.write(line, str(os.getpid()).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

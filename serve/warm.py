"""A process a lane of jobs that has its imports done, and the jobs' processes that are forked from it.

A job's process needs seconds for its imports, more than a small job takes. So the first job of a lane starts a process
that does them once (serve.warm_child); this and all later jobs are forked from it. It costs memory until it has been idle
for a while, and nothing where no such job was ever asked for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

AVAILABLE = sys.platform == "linux" and not Path("/dev/nvidiactl").exists()
"""Elsewhere jobs are started anew. A fork behind such imports is not safe on macOS, and CUDA forbids one behind its own
beginning, which an import may cause; beside a training on a GPU the seconds do not count."""

IMPORTS: dict[str, tuple[str, ...]] = {
    "ingest": (
        "serve.vector_store_child",
        *(
            "sentence_transformers",
            "llama_index.vector_stores.chroma",
            "chromadb.api.rust",
            "bm25s",
            "Stemmer",
            "py3langid",
        ),
        *("rag.nodes", "rag.store", "rag.readers.plain", "rag.readers.markdown", "rag.readers.html", "rag.readers.pdf"),
    ),
    "compute": (
        "serve.fine_tuning_child",
        *("transformers", "peft", "tuning.examples", "tuning.general", "tuning.lora", "tuning.learner", "tuning.fused"),
    ),
}
"""By lane, what its jobs import first. Imports only: a fork is safe as long as nothing has been computed. The
one thread that they start (of jemalloc, which comes with pyarrow) minds forks by itself."""


READY = b"ready"
"""What it says once its imports are done."""
ANSWER_WITHIN_S = 10.0

State = Literal["loading", "ready", "gone", "failed"]


class Forked:
    """A job's process that another process than this one forked; as much of a Popen as jobs need."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self._line = line
        """The process has its other end, which the kernel closes however it ends."""
        self._ended = False

    def poll(self) -> int | None:
        """None as long as it runs."""
        return self._look(0)

    def wait(self) -> int:
        """0 once it has ended, however it did."""
        return self._look(None) or 0

    def _look(self, timeout_s: float | None) -> int | None:
        if not self._ended:
            self._line.settimeout(timeout_s)
            try:
                self._line.recv(1)
            except BlockingIOError:
                return None
            except OSError:
                pass
            self._line.close()
            self._ended = True
        return 0


class Warm:
    """The process that a lane's jobs are forked from."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises OSError where it cannot be started."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._state: State = "loading"
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "serve.warm_child", *modules],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=dict(environment),
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def state(self) -> State:
        """At its imports, at hand, ended (idle, or killed), or ended before it was at hand."""
        if self._state in ("loading", "ready"):
            self._socket.settimeout(0)
            try:
                if self._socket.recv(len(READY)) == READY:
                    self._state = "ready"
                else:
                    self.close()
            except BlockingIOError:
                pass
            except OSError:
                self.close()
        return self._state

    def fork(self, folder: Path, log: int) -> Forked | None:
        """The process of the job in `folder`, which writes to the file descriptor `log`; None where there is none to be had."""
        if self.state != "ready":
            return None
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._socket.settimeout(ANSWER_WITHIN_S)
                socket.send_fds(self._socket, [os.fsencode(folder)], [log, theirs.fileno()])
            ours.settimeout(ANSWER_WITHIN_S)
            return Forked(int(ours.recv(32)), ours)
        except (OSError, ValueError):
            # Gone just now, or stuck. A job that it may have begun all the same holds its lock: nobody does it twice.
            ours.close()
            self.close()
            return None

    def close(self) -> None:
        """End it; the jobs that were forked from it are not touched. Twice is harmless."""
        if self._state in ("loading", "ready"):
            self._state = "failed" if self._state == "loading" else "gone"
            self._socket.close()
            self._process.kill()
            self._process.wait()

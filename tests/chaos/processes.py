"""The processes that chaos kills: a server over a workspace, and what that server has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from core.locks import owner_of
from serve.job_process import LOCK
from tests.conftest import ROOT

SCRIPTED = """
from core.workspace import open_workspace
from serve.catalog import Catalog
from serve.logs import configure_logging
from serve.server import listen, run_server
from serve.services import Options
from tests.serve.conftest import EchoEngine

configure_logging("text", False)
said = lambda url, models: print('{"url": "' + url + '/v1"}', flush=True)
catalog = Catalog(open_workspace(), lambda model: EchoEngine(model, delay_s=0.01))
run_server(
    catalog, listen("127.0.0.1", 0), on_ready=said, running=32, waiting=64, options=Options(log_requests=True)
)
"""
"""A server whose answers are scripted: it is up in a second or two. Everything else of it is the real one."""

UP_WITHIN_S = 600.0


class NotUp(AssertionError):
    """A server did not start, or not stop, by itself."""


class ServerProcess:
    """A server process over the workspace `home`; `url` is None while there is none."""

    def __init__(self, home: Path, engine: str | None = None) -> None:
        """
        Args:
            engine: of `tunefork serve`; None: scripted answers.
        """
        self.home = home
        self.url: str | None = None
        self.log = home.parent / "server.log"
        self.scripted = engine is None
        self._command = [sys.executable, "-c", SCRIPTED]
        if engine is not None:
            options = ["--port", "0", "--json", "--log-requests", "--no-access-log"]
            self._command = [sys.executable, "-m", "core.cli", "serve", "--engine", engine, *options]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Raises NotUp when it ends instead, with the last lines of its log."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "TUNEFORK_HOME": str(self.home)},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotUp("the server did not start:\n" + "\n".join(self.log.read_text().splitlines()[-15:]))
        self.url = json.loads(line)["url"]

    def kill(self) -> None:
        self.url = None
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As a user would. Raises NotUp when its exit code is not 0."""
        self.url = None
        code = self._end(signal.SIGTERM)
        if code != 0:
            raise NotUp(f"the server was told to stop, and exited with {code}")

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait(UP_WITHIN_S)
        assert process.stdout is not None
        process.stdout.close()
        return code


class Running(NamedTuple):
    pid: int
    command: str


def processes_of(home: Path) -> list[Running]:
    """Processes that work on the workspace `home`, the servers among them; by their environment, so none other."""
    wanted = f"TUNEFORK_HOME={home}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if command:  # a zombie has none
                    found.append(Running(int(folder.name), command))
    return found


def jobs_at_work(home: Path, prefix: str) -> dict[str, int]:
    """Process of each job whose id begins with `prefix`."""
    alive = {running.pid for running in processes_of(home)}
    owners = {folder.name: owner_of(folder / LOCK) for folder in (home / "server" / "jobs").glob(f"{prefix}*")}
    return {job: pid for job, pid in owners.items() if pid in alive}


def vllm_of(home: Path) -> list[Running]:
    """The API server and the engine core of a vLLM child."""
    return [running for running in processes_of(home) if "vllm_child" in running.command or "VLLM" in running.command]


def kill(pid: int) -> bool:
    """kill -9; False when it was gone before."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = UP_WITHIN_S) -> None:
    """Raises AssertionError when `condition` does not come true in a time that no slow machine needs."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"after {timeout_s:.0f} s: {what}"
        time.sleep(0.1)

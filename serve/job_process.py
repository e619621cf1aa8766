"""The process that works on a job: whether it lives, and how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.locks import held, owner_of
from core.workspace import Workspace
from serve.warm import Forked, Warm

KILL_AFTER_S = 30.0
LOCK = ".lock"


@dataclass
class Child:
    """A child of this server, or (without a process) one that an earlier server left running."""

    folder: Path
    process: subprocess.Popen[bytes] | Forked | None
    told_to_stop: float | None = None
    """When it was first told to."""
    killed: bool = field(default=False)

    def alive(self) -> bool:
        if self.process is not None and self.process.poll() is None:
            return True
        return held(self.folder / LOCK)

    def stop(self) -> None:
        """Ask it to stop; kill it when it was asked long ago."""
        now = time.monotonic()
        if self.told_to_stop is None:
            self.told_to_stop = now
            self._signal(signal.SIGTERM)
        elif not self.killed and now - self.told_to_stop > KILL_AFTER_S:
            self.killed = True
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        own = self.process
        if own is not None and own.poll() is None:
            pid: int | None = own.pid
        else:
            # Of a process that is gone the id may be another's by now.
            pid = owner_of(self.folder / LOCK) if held(self.folder / LOCK) else None
        if pid is not None:
            # A session of its own: the child and whatever it started.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def begin(folder: Path, command: Sequence[str], environment: Mapping[str, str], warm: Warm | None) -> Child:
    """A process at work on the job in `folder`: forked from `warm` where that can be, else started by `command`.

    Raises:
        OSError: it could not be started.
    """
    process: subprocess.Popen[bytes] | Forked | None = None
    with (folder / "log.txt").open("ab") as out:
        if warm is not None:
            process = warm.fork(folder, out.fileno())
        if process is None:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    return Child(folder, process)


def environment(workspace: Workspace) -> dict[str, str]:
    """What a job's process finds in its environment."""
    own = {**os.environ, "TUNEFORK_HOME": str(workspace.path)}
    # The server's own keys are none of the child's business.
    own.pop("TUNEFORK_API_KEYS", None)
    return own

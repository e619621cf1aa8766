"""Long work as a job: a run folder with config.json and status.json, a lock, and an honest end.

status.json is always there and always true: `running` carries the process id, so
a reader can tell a killed job from a live one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.files import read_json, write_json


@contextmanager
def job(run: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """The block as a job in the folder `run`: writes the resolved config, then status running -> done | stopped | failed."""
    write_json(run / "config.json", dict(config))
    started = _now()
    write_json(run / "status.json", {"state": "running", "pid": os.getpid(), "started": started})
    try:
        yield
    except BaseException as exc:
        state = "stopped" if isinstance(exc, KeyboardInterrupt) else "failed"
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        write_json(run / "status.json", {"state": state, "reason": reason, "started": started, "ended": _now()})
        raise
    write_json(run / "status.json", {"state": "done", "started": started, "ended": _now()})


def state(run: Path) -> str:
    """running | done | stopped | failed | killed: what became of the job in `run`.

    `killed` is a job that says it runs while its process is gone.
    """
    path = run / "status.json"
    if not path.exists():
        return "killed"
    status = read_json(path)
    if status["state"] == "running" and not _alive(int(status["pid"])):
        return "killed"
    return str(status["state"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

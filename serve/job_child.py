"""The process of one job: `python -m serve.job_child FOLDER`, started by serve.jobs.

It leaves FOLDER/result.json, `{"error": {"code", "message", "param"} | null, "result": ...}`, when it ends by itself.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from core.errors import ConfigError, DataError, Locked, TuneforkError
from core.files import read_json, write_json
from core.locks import hold
from core.workspace import open_workspace
from serve.job_process import LOCK

Run = Callable[[str, dict[str, Any], Path], dict[str, Any]]
"""(subject, spec, the job's folder) -> result."""


def main(folder: Path) -> int:
    """Do the job in `folder`; 0 when it left a result."""
    from core.cli import _quiet_dependencies

    _quiet_dependencies()
    signal.signal(signal.SIGTERM, _stopped)
    spec = read_json(folder / "spec.json")
    try:
        with hold(folder / LOCK, "the job"):
            if (folder / "result.json").exists():
                return 0
            return _run(folder, spec)
    except Locked:
        return 0  # another process does this job


def _run(folder: Path, spec: dict[str, Any]) -> int:
    try:
        result = _kind(spec["kind"])(spec["subject"], spec["spec"], folder)
        error = None
    except (KeyboardInterrupt, click.Abort):
        # Told to stop: the server knows why, and whether to begin again.
        return 1
    except TuneforkError as exc:
        traceback.print_exc()
        result, error = None, _error(exc)
    except click.ClickException as exc:
        result, error = None, {"code": "invalid_value", "message": exc.format_message(), "param": None}
    except Exception:  # noqa: BLE001 - the one broad catch of a job; its log has the rest
        traceback.print_exc()
        text = "the job failed by an error of ours; the server's folder of this job has its log"
        result, error = None, {"code": "server_error", "message": text, "param": None}
    write_json(folder / "result.json", {"error": error, "result": result})
    return 0


def _kind(kind: str) -> Run:
    if kind == "advise":
        from serve.advise_child import advise_copy

        return advise_copy
    if kind == "fine_tuning":
        from serve.fine_tuning_child import fine_tune

        return fine_tune
    from serve.vector_store_child import index_store

    assert kind == "vector_store", kind
    return index_store


def _error(exc: TuneforkError) -> dict[str, Any]:
    code = getattr(exc, "code", None)
    if code is None:
        code = (
            "invalid_file"
            if isinstance(exc, DataError)
            else "invalid_value"
            if isinstance(exc, ConfigError)
            else "failed"
        )
    return {"code": code, "message": without_paths(str(exc)), "param": getattr(exc, "param", None)}


def without_paths(text: str) -> str:
    """`text` as a client may read it: of a path only its last part."""
    text = text.replace(f"{open_workspace().path}{os.sep}", "/")
    return re.sub(r"(?<![\w/:.])/(?:[^\s/:'\"]+/)*", "", text)


def _stopped(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

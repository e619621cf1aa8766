"""The job that measures a use case anew. Runs in a child process, see serve.job_child.

It works on a copy of the use case. The server keeps the use case's index open, which one process can have, and goes on
answering from it meanwhile; a copy also leaves the verdict in force alone until the new one is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from core.files import read_json, staged_folder, write_json
from core.workspace import UseCaseFolder, Workspace, open_workspace

HOME = "home"
"""Folder of the job with the copy; what is left of it when the job ends is removed."""

_NOT_NEEDED = frozenset({"runs", "training", "adapters"})
_KEPT = ("cache", "pilots")
"""What measuring makes and the next measurement, or `build`, can use: answers and trained pilots."""


def advise_copy(use_case: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The verdict, once it is in force."""
    from core.cli import tunefork

    workspace = open_workspace()
    real = workspace.use_case(use_case)
    with real.lock("advise"):
        copy = _copied(real, workspace, folder / HOME)
        os.environ["TUNEFORK_HOME"] = str(folder / HOME)
        out = StringIO()
        try:
            with redirect_stdout(out):
                arguments = ["advise", use_case, *spec["arguments"], "--json"]
                tunefork.main(arguments, prog_name="tunefork", standalone_mode=False)
        finally:
            os.environ["TUNEFORK_HOME"] = str(workspace.path)
            _keep(copy, real)
        verdict: dict[str, Any] = json.loads(out.getvalue())
        run = str(verdict["run"])
        if not (real.path / "runs" / run).exists():
            with staged_folder(real.path / "runs" / run) as staging:
                shutil.copytree(copy.path / "runs" / run, staging, dirs_exist_ok=True)
        write_json(real.verdict_path, read_json(copy.verdict_path))
    return verdict


def _copied(real: UseCaseFolder, workspace: Workspace, home: Path) -> UseCaseFolder:
    """The use case under `home`, as an earlier attempt left it or copied now."""
    target = home / "use_cases" / real.name
    if not target.is_dir():
        (home / "use_cases").mkdir(parents=True, exist_ok=True)
        if not (home / "models").is_symlink():
            workspace.models.mkdir(exist_ok=True)
            (home / "models").symlink_to(workspace.models)
        with staged_folder(target) as staging:
            shutil.copytree(real.path, staging, dirs_exist_ok=True, ignore=_left_out)
    return UseCaseFolder(target)


def _left_out(_folder: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name in _NOT_NEEDED or name.endswith((".lock", ".owner", ".tmp"))}


def _keep(copy: UseCaseFolder, real: UseCaseFolder) -> None:
    """Bring back what was made, whatever became of the measurement. Nobody else measures this use case meanwhile."""
    for name in _KEPT:
        for source in (copy.path / name).glob("[!.]*"):
            target = real.path / name / source.name
            if source.is_dir():
                if not target.exists():
                    with staged_folder(target) as staging:
                        shutil.copytree(source, staging, dirs_exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(source, temporary)
            temporary.replace(target)

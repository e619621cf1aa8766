"""Short ways to write a use case's files, to run `advise` in a test and to read what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.files import read_json
from core.workspace import Workspace


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def advise(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The verdict of `tunefork advise ARGS`, which must end well."""
    code = main(["advise", *args, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def report_of(workspace: Workspace, use_case: str, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """report.json of the run that gave `verdict`."""
    found = read_json(workspace.use_case(use_case).path / "runs" / verdict["run"] / "report.json")
    assert isinstance(found, dict)
    return found

"""Fixtures of the tests that run `advise` as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.engines.scripted import ScriptedEngine


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    """An empty folder for a use case's files; commands run in an empty workspace."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedEngine]:
    """Make the base model a scripted one; returns it, to see what was asked."""

    def install(script: Any) -> ScriptedEngine:
        engine = ScriptedEngine(script, name="scripted")
        monkeypatch.setattr("advisor.advise.open_engine", lambda *_: engine)
        return engine

    return install

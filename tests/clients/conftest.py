"""Runs in the environment of the clients, where Tunefork is not installed: the server is a process of the other one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Address of a running server, without /v1."""
    python = os.environ.get("TUNEFORK_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    process = subprocess.Popen(
        [python, "-m", "tests.clients.server"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline().strip()
        assert line, "the server did not start"
        yield line
    finally:
        process.stdin.close()
        process.wait(30)

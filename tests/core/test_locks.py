"""One owner at a time, and a dead owner is no owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import Locked
from core.locks import held, hold, owner_of

HOLDER = """
import sys, time
from pathlib import Path
from core.locks import held, hold, owner_of
with hold(Path(sys.argv[1]), "the index"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with (
        _holder(lock) as process,
        pytest.raises(Locked, match=rf"the index is in use .*pid {process.pid}"),
        hold(lock, "the index"),
    ):
        pass


def test_a_killed_owner_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with _holder(lock) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold(lock, "the index"):
            assert (tmp_path / ".lock.owner").read_text(encoding="utf-8") == str(os.getpid())


def test_a_patient_owner_waits(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with _holder(lock) as process:
        start = time.monotonic()
        timer = subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(0.5); os.kill({process.pid}, 9)"])
        with hold(lock, "the index", patient=True):
            assert time.monotonic() - start > 0.3
        timer.wait()


class _holder:  # noqa: N801 - reads as a block
    def __init__(self, lock: Path) -> None:
        self._lock = lock

    def __enter__(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self._lock)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_looking_whether_a_lock_is_held_leaves_the_owners_name(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert not held(lock)
    with _holder(lock) as process:
        assert held(lock)
        process.kill()
        process.wait()
        assert not held(lock)
        assert owner_of(lock) == process.pid

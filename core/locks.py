"""One owner at a time: a file lock that says who holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import Locked


@contextmanager
def hold(path: Path, what: str, *, patient: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for the block. The kernel frees it when the process dies, however it dies.

    Args:
        what: what is locked, as a person would say it ("the index of 'faq'").
        patient: wait for the other owner rather than raise; for short work that both need done once.

    Raises:
        Locked: another process (named by its id) holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=-1 if patient else 0)
    except Timeout as exc:
        raise Locked(f"{what} is in use by another process{_named(path)}; wait for it or stop it") from exc
    try:
        _owner_file(path).write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        forget_owner(path)
        lock.release()


def held(path: Path) -> bool:
    """Whether some process holds the lock file `path`. Looking makes no mark: the owner's name stays the owner's."""
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def owner_of(path: Path) -> int | None:
    """Process that holds, or was killed holding, the lock file `path`."""
    try:
        return int(_owner_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def forget_owner(path: Path) -> None:
    """Remove the name of a process that held the lock file `path`, as one that was killed leaves it."""
    _owner_file(path).unlink(missing_ok=True)


def _owner_file(path: Path) -> Path:
    return path.with_name(path.name + ".owner")


def _named(path: Path) -> str:
    owner = owner_of(path)
    return "" if owner is None else f" (pid {owner})"

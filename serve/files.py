"""Uploaded files: kept by content, whole or not at all.

server/files/SHA256 holds the bytes once, however often they were uploaded; the state has a row for each upload. A row is
written when its bytes are on the disk, so a file that was acknowledged is there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from serve.state import Row, State

Purpose = Literal["assistants", "fine-tune", "user_data"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """One upload."""

    id: str
    filename: str
    purpose: Purpose
    bytes: int
    sha256: str
    created_at: int

    @classmethod
    def of(cls, row: Row) -> StoredFile:
        return cls(row["id"], row["filename"], row["purpose"], row["bytes"], row["sha256"], row["created_at"])

    def document(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class EmptyFile(ValueError):
    """Nothing was uploaded."""


class Files:
    """The files of a workspace. Thread-safe."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.folder = state.folder / "files"
        self.folder.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._sweep()

    def add(self, source: BinaryIO, filename: str, purpose: Purpose) -> StoredFile:
        """Keep what `source` holds from its start on.

        Raises:
            EmptyFile: that is nothing.
        """
        incoming = self.folder / f".{secrets.token_hex(8)}.tmp"
        digest, size = hashlib.sha256(), 0
        try:
            source.seek(0)
            with incoming.open("wb") as file:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if not size:
                raise EmptyFile
            stored = StoredFile(
                f"file-{secrets.token_hex(12)}",
                safe_name(filename),
                purpose,
                size,
                digest.hexdigest(),
                int(time.time()),
            )
            with self._lock:
                incoming.replace(self.folder / stored.sha256)
                _sync_folder(self.folder)
                with self._state.change() as db:
                    db.execute(
                        "INSERT INTO files (id, filename, purpose, bytes, sha256, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                        (stored.id, stored.filename, purpose, size, stored.sha256, stored.created_at),
                    )
        finally:
            incoming.unlink(missing_ok=True)
        return stored

    def get(self, id: str) -> StoredFile | None:
        row = self._state.one("SELECT * FROM files WHERE id = ?", (id,))
        return None if row is None else StoredFile.of(row)

    def all(self, purpose: str | None = None) -> list[StoredFile]:
        """Oldest first."""
        rows = self._state.all("SELECT * FROM files ORDER BY seq")
        return [StoredFile.of(row) for row in rows if purpose in (None, row["purpose"])]

    def path(self, file: StoredFile) -> Path:
        """Where its bytes are. Never written to again."""
        return self.folder / file.sha256

    def read(self, file: StoredFile) -> Iterator[bytes]:
        """Its bytes in blocks. Opened at once: a file that is deleted meanwhile is read to its end."""
        source = self.path(file).open("rb")

        def blocks() -> Iterator[bytes]:
            with source:
                while block := source.read(_BLOCK):
                    yield block

        return blocks()

    def delete(self, id: str) -> bool:
        """Forget an upload, and its bytes when no other has the same. False when there is none of that id."""
        with self._lock:
            file = self.get(id)
            if file is None:
                return False
            with self._state.change() as db:
                db.execute("DELETE FROM files WHERE id = ?", (id,))
            if self._state.one("SELECT 1 FROM files WHERE sha256 = ?", (file.sha256,)) is None:
                self.path(file).unlink(missing_ok=True)
        return True

    def _sweep(self) -> None:
        """Remove what a killed server left: uploads that did not end, bytes that no row names."""
        known = {row["sha256"] for row in self._state.all("SELECT DISTINCT sha256 FROM files")}
        for path in self.folder.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make `target` the same bytes as `source`: a second name where the disk can, else a copy. Leaves one that is there."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def safe_name(name: str) -> str:
    """`name` as the last part of a path: no folders, no control characters, not hidden, at most 200 bytes."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1].encode("utf-8", "replace").decode()
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip().lstrip(".")
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > 200:
        name = _cut(stem or suffix, 180) + (dot + _cut(suffix, 19) if stem else "")
    return name or "file"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore")


def _sync_folder(folder: Path) -> None:
    """Let the names in `folder` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Embeddings on disk by the text they embed: what an ingest need not compute twice.

Two plain files, appended together: `keys` (16 bytes a row) and `vectors`
(float32). A killed writer leaves at most a torn last row, which readers ignore.
They lie in each index version beside Chroma's own copy, because Chroma's store has
one owner: a new version is built while the server holds the old one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np

from rag.embedding import Vectors

KEY_BYTES = 16


def key(text: str) -> bytes:
    """The key of an embedded text. Files of one embedding model only are ever looked up together."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


class VectorWriter:
    """Appends rows to the vector files in `folder`."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = rows = _rows(folder, dimensions)
        self._keys = (folder / "keys").open("ab")
        self._vectors = (folder / "vectors").open("ab")
        self._keys.truncate(rows * KEY_BYTES)
        self._vectors.truncate(rows * dimensions * 4)

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add rows; they are on the disk when this returns."""
        self._vectors.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        self._keys.write(b"".join(keys))
        for file in (self._vectors, self._keys):
            file.flush()
            os.fsync(file.fileno())
        self.rows += len(keys)

    def close(self) -> None:
        self._keys.close()
        self._vectors.close()

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class VectorFile:
    """Rows of the vector files in `folder`, memory-mapped; empty when there are none."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        self._row = {key: row for row, key in enumerate(read_keys(folder, dimensions))}
        self.vectors = open_vectors(folder, dimensions)

    def __len__(self) -> int:
        return len(self.vectors)

    def find(self, key: bytes) -> Vectors | None:
        """The vector of an embedded text, if it is here."""
        row = self._row.get(key)
        return None if row is None else self.vectors[row]


def read_keys(folder: Path, dimensions: int) -> list[bytes]:
    """The key of each row in `folder`; equal texts have equal ones."""
    rows = _rows(folder, dimensions)
    raw = (folder / "keys").read_bytes()[: rows * KEY_BYTES] if rows else b""
    return [raw[i : i + KEY_BYTES] for i in range(0, len(raw), KEY_BYTES)]


def open_vectors(folder: Path, dimensions: int) -> Vectors:
    """The vectors in `folder` (rows, dimensions), memory-mapped; empty when there are none."""
    rows = _rows(folder, dimensions)
    if not rows:
        return np.zeros((0, dimensions), np.float32)
    return np.memmap(folder / "vectors", np.float32, "r", shape=(rows, dimensions))


def _rows(folder: Path, dimensions: int) -> int:
    try:
        keys = (folder / "keys").stat().st_size // KEY_BYTES
        return min(keys, (folder / "vectors").stat().st_size // (4 * dimensions))
    except FileNotFoundError:
        return 0

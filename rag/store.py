"""Chroma's embedded store, one collection a version folder, written and read through LlamaIndex's format.

Chroma's embedded store is made for one process at a time, so opening takes the
version's lock. Deleted rows leave their vectors on its disk: that is why a change
builds a new version and drops the old folder whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import ENOSPC
from os import strerror
from pathlib import Path
from secrets import token_hex
from shutil import disk_usage
from types import TracebackType
from typing import Any

import numpy as np

from core.errors import ArtifactError
from core.locks import hold
from rag.embedding import Vectors
from rag.fusion import Hits
from rag.scrub import scrub

COLLECTION = "passages"

_PREFIX = "chroma-"

EF = 200
"""HNSW candidates looked at in building and searching."""

_QUERY_RESULTS = 10_000
"""Results of one call to Chroma: it binds each as an SQL variable, and SQLite takes 32,766."""

_FULL_BYTES = 8 * 2**20


class Store:
    """An open collection. Searching is thread-safe. Close it before its folder is moved or removed."""

    def __init__(self, folder: Path, client: Any, collection: Any, held: ExitStack) -> None:
        self._folder = folder
        self._client = client
        self._collection = collection
        self._held = held

    @property
    def vector_store(self) -> Any:
        """The collection as LlamaIndex's vector store."""
        from llama_index.vector_stores.chroma import ChromaVectorStore

        return ChromaVectorStore(chroma_collection=self._collection)

    def count(self) -> int:
        return int(self._collection.count())

    def search(self, vectors: Vectors, k: int) -> list[Hits]:
        """The `k` nearest rows of each vector, by cosine.

        Straight to Chroma: LlamaIndex's store takes one query a call, and gives exp(-distance) for a score.
        """
        k = min(k, self.count())
        if k == 0 or not len(vectors):
            return [Hits([], []) for _ in vectors]
        batch = max(1, _QUERY_RESULTS // k)
        return [hits for at in range(0, len(vectors), batch) for hits in self._nearest(vectors[at : at + batch], k)]

    def _nearest(self, vectors: Vectors, k: int) -> list[Hits]:
        from chromadb.errors import ChromaError

        # A node's id is its row: fetching metadata would take ten times as long as the search.
        try:
            found = self._collection.query(query_embeddings=vectors, n_results=k, include=["distances"])
        except ChromaError as exc:
            raise ArtifactError(f"Chroma cannot search the index: it is damaged ({exc})") from exc
        return [
            Hits([int(id) for id in ids], [1.0 - float(d) for d in distances])
            for ids, distances in zip(found["ids"], found["distances"], strict=True)
        ]

    def vectors(self, rows: Sequence[int]) -> dict[int, Vectors]:
        """The vectors of those of `rows` that are here."""
        found = self._collection.get(ids=[str(row) for row in rows], include=["embeddings"])
        return {int(id): np.asarray(one, np.float32) for id, one in zip(found["ids"], found["embeddings"], strict=True)}

    def close(self) -> None:
        """Release the files and the lock. Calling it twice is harmless."""
        if self._client is not None:
            self._client.close()
            self._client = None
            scrub(self._folder)
        self._held.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Chroma's failures in writing below `folder`, in our words.

    Raises:
        OSError: (ENOSPC) the disk is full; Chroma itself says so in many ways, or not at all.
        ArtifactError: anything else.
    """
    from chromadb.errors import ChromaError

    try:
        yield
    except ChromaError as exc:
        if disk_usage(folder).free < _FULL_BYTES:
            raise OSError(ENOSPC, strerror(ENOSPC), str(folder)) from exc
        raise ArtifactError(f"Chroma cannot store the passages ({exc}); the index in force stays as it was") from exc


def create_store(version: Path) -> Store:
    """A new, empty collection inside the folder `version`, which only this process knows yet.

    Its name is never used again: within a process Chroma answers a path it has open from the files that it
    opened, also where they were deleted and others made in their place.
    """
    folder = version / f"{_PREFIX}{token_hex(8)}"
    client = _client(folder)
    try:
        collection = client.create_collection(
            COLLECTION,
            # None: else Chroma would download an embedding model of its own.
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine", "ef_construction": EF, "ef_search": EF}},
        )
    except BaseException:
        client.close()
        raise
    return Store(folder, client, collection, ExitStack())


def open_store(version: Path, lock: Path, what: str) -> Store:
    """The finished collection inside the folder `version`, held by this process until closed.

    Raises:
        Locked: another process has it open; names it.
        ArtifactError: there is no collection, or Chroma cannot read it.
    """
    held = ExitStack()
    held.enter_context(hold(lock, what))
    try:
        folders = [path.parent for path in version.glob(f"{_PREFIX}*/chroma.sqlite3")]
        if len(folders) != 1:
            raise ArtifactError(f"{version}: there is {'more than one' if folders else 'no'} collection")
        (folder,) = folders
        client = _client(folder)
        held.callback(client.close)
        collection = client.get_collection(COLLECTION, embedding_function=None)
    except ArtifactError:
        held.close()
        raise
    except Exception as exc:
        held.close()
        # Chroma meets a damaged store with whatever error the damage leads to.
        raise ArtifactError(f"{version}: Chroma cannot open it ({type(exc).__name__}: {exc})") from exc
    return Store(folder, client, collection, held)


def _client(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))

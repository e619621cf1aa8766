"""Chroma's embedded store, one collection a version folder, written and read through LlamaIndex's format.

Chroma's embedded store is made for one process at a time, so opening takes the
version's lock. Deleted rows leave their vectors on its disk: that is why a change
builds a new version and drops the old folder whole.
"""

from __future__ import annotations

import os
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

from core.errors import ArtifactError, EngineUnavailable, Locked
from core.locks import hold
from core.workspace import Versions
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

    def __init__(self, collection: Any, held: ExitStack) -> None:
        """`held` is let go of when the store is closed."""
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
        from httpx import TransportError

        # A node's id is its row: fetching metadata would take ten times as long as the search.
        try:
            found = self._collection.query(query_embeddings=vectors, n_results=k, include=["distances"])
        except ChromaError as exc:
            raise ArtifactError(f"Chroma cannot search the index: it is damaged ({exc})") from exc
        except TransportError as exc:
            raise EngineUnavailable(f"the Chroma server of the index cannot be reached ({exc})") from exc
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
        EngineUnavailable: the server cannot be reached.
        ArtifactError: anything else.
    """
    from chromadb.errors import ChromaError
    from httpx import TransportError

    try:
        yield
    except TransportError as exc:
        raise EngineUnavailable(f"the Chroma server cannot be reached ({exc}); run the same command again") from exc
    except ChromaError as exc:
        if disk_usage(folder).free < _FULL_BYTES:
            raise OSError(ENOSPC, strerror(ENOSPC), str(folder)) from exc
        raise ArtifactError(f"Chroma cannot store the passages ({exc}); the index in force stays as it was") from exc


_CONFIGURATION = {"hnsw": {"space": "cosine", "ef_construction": EF, "ef_search": EF}}


def create_store(version: Path, url: str | None = None) -> Store:
    """A new, empty collection for the folder `version`, which only this process knows yet: inside it, or at a server.

    Its name is never used again: within a process Chroma answers a path it has open from the files that it
    opened, also where they were deleted and others made in their place.

    Raises:
        EngineUnavailable: the server at `url` cannot be reached.
    """
    if url is not None:
        from rag.chroma_server import create

        return Store(create(version, url, version.parent, _CONFIGURATION), ExitStack())
    with ExitStack() as held:
        client = _embedded(version / f"{_PREFIX}{token_hex(8)}", held)
        # No embedding function: else Chroma would download an embedding model of its own.
        collection = client.create_collection(COLLECTION, embedding_function=None, configuration=_CONFIGURATION)
        return Store(collection, held.pop_all())


def open_store(version: Path, lock: Path, what: str) -> Store:
    """The finished collection of the folder `version`, held until closed: by this process alone where it is inside.

    Raises:
        Locked: another process has it open; names it.
        EngineUnavailable: the server that has it cannot be reached.
        ArtifactError: there is no collection, or Chroma cannot read it.
    """
    from rag.chroma_server import connect, url_of

    served = url_of(version) is not None
    # At a server each process has a lock of its own, which says that the version is in use.
    path = lock.with_name(f"{lock.name}.{os.getpid()}.{token_hex(4)}") if served else lock
    with ExitStack() as held:
        held.enter_context(hold(path, what))
        try:
            if served:
                held.callback(path.unlink, missing_ok=True)
                return Store(connect(version), held.pop_all())
            folders = [found.parent for found in version.glob(f"{_PREFIX}*/chroma.sqlite3")]
            if len(folders) != 1:
                raise ArtifactError(f"{version}: there is {'more than one' if folders else 'no'} collection")
            collection = _embedded(folders[0], held).get_collection(COLLECTION, embedding_function=None)
            return Store(collection, held.pop_all())
        except (ArtifactError, EngineUnavailable):
            raise
        except Exception as exc:
            # Chroma meets a damaged store with whatever error the damage leads to.
            raise ArtifactError(f"{version}: Chroma cannot open it ({type(exc).__name__}: {exc})") from exc


def drop_version(index: Versions, version: str) -> bool:
    """Remove a version that is not in force, its collection at a server with it; False when some process has it open.

    Raises:
        EngineUnavailable: its server cannot be reached; the version stays.
    """
    from rag.chroma_server import drop

    folder = index.folder / version
    lock = version_lock(folder)
    # The version's own lock keeps others from opening it meanwhile; those beside it are of readers at a server.
    locks = [lock, *(path for path in lock.parent.glob(f"{lock.name}.*") if not path.name.endswith(".owner"))]
    with ExitStack() as held:
        try:
            for path in locks:
                held.enter_context(hold(path, f"index {version}"))
        except Locked:
            return False
        drop(folder)
        index.drop(version)
    for path in locks:
        path.unlink(missing_ok=True)
    return True


def version_lock(version: Path) -> Path:
    """Lock file of one index version, beside its folder."""
    return version.parent / f".{version.name}.lock"


def _embedded(folder: Path, held: ExitStack) -> Any:
    """Chroma's client of the files in `folder`, closed, and its files scrubbed, with `held`."""
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    held.callback(scrub, folder)
    held.callback(client.close)
    return client

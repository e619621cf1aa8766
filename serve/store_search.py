"""Searching vector stores: open retrievers, filters over attributes, results by file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import Locked
from core.settings import UseCase
from core.types import Source
from core.workspace import UseCaseFolder, Workspace
from serve.asked import retrieving, tenant_values
from serve.holding import Held, KeyedLocks
from serve.stores import Attributes, StoreFile, Stores

if TYPE_CHECKING:
    from rag.filters import Filter
    from rag.retrieve import Retriever

PATIENCE_S = 5.0


class Result(NamedTuple):
    """A passage that was found."""

    file_id: str
    filename: str
    score: float
    """At most 1."""
    attributes: Attributes
    text: str


class StoreSearch:
    """Searches the stores of a workspace; keeps what it opened. Thread-safe, and slow on first use of a store."""

    def __init__(self, workspace: Workspace, stores: Stores) -> None:
        self._workspace = workspace
        self._stores = stores
        self._locks = KeyedLocks()
        self._open: dict[str, tuple[Path, Held[Retriever]]] = {}
        self._guard = threading.Lock()

    def search(
        self,
        store: str,
        texts: Sequence[str],
        top_k: int,
        *,
        filter: Filter | None = None,
        tenant: Mapping[str, str] | None = None,
        min_score: float | None = None,
    ) -> list[Result]:
        """The best `top_k` passages of a store for any of `texts`, best first; () for a store without indexed files.

        Args:
            filter: over the files' attributes.
            tenant: values that a file's attributes must have; where a file lacks such an attribute, each passage's own
                metadata must (rows of a corpus carry it).

        Raises:
            ArtifactError: the index is damaged.
        """
        files = {file.id: file for file in self._stores.files(store) if file.status == "completed"}
        condition = _condition(files, filter, tenant or {})
        with self._held(store) as retriever:
            if retriever is None or not files:
                return []
            found = retriever.search(texts, top_k, filter=condition)
        best: dict[tuple[str, str], Result] = {}
        for source in (one for sources in found for one in sources):
            result = _result(source, files)
            key = (result.file_id, result.text)
            if (min_score is None or result.score >= min_score) and (key not in best or best[key].score < result.score):
                best[key] = result
        return sorted(best.values(), key=lambda one: -one.score)[:top_k]

    def text(self, store: str, file: str) -> list[str]:
        """What was read from a file, a text a document of it.

        Raises:
            ArtifactError: the index is damaged.
        """
        from rag.passages import Passages, joined
        from serve.vector_store_child import file_of

        with self._held(store) as retriever:
            version = self._stores.folder(store).index.active()
            if retriever is None or version is None:
                return []
            passages = Passages(version)
            try:
                own = [entry for entry in passages.entries if file_of(entry.file) == file]
                return [joined(passages.rows_of(entry)) for entry in own]
            finally:
                passages.close()

    def forget(self, store: str) -> None:
        """Let go of a store; searches in progress end on what they have."""
        with self._locks[store]:
            with self._guard:
                opened = self._open.pop(store, None)
            if opened is not None:
                opened[1].release()

    def close(self) -> None:
        for store in list(self._open):
            self.forget(store)

    @contextmanager
    def _held(self, store: str) -> Iterator[Retriever | None]:
        """The store's index in force, kept open for the block; None when it has none."""
        with self._locks[store]:
            folder = self._stores.folder(store)
            version = folder.index.active()
            opened = self._open.get(store)
            if opened is not None and opened[0] != version:
                self.forget(store)
                opened = None
            if opened is None and version is not None:
                retriever = self._opened(folder)
                opened = (folder.index.folder / retriever.version, Held(retriever, _closer(retriever)))
                with self._guard:
                    self._open[store] = opened
            held = opened[1] if opened is not None else None
            if held is not None:
                held.retain()
        try:
            yield None if held is None else held.value
        finally:
            if held is not None:
                held.release()

    def _opened(self, folder: UseCaseFolder) -> Retriever:
        from rag.open import open_retriever

        patient_until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return open_retriever(folder, UseCase(name=folder.name), self._workspace)
            except Locked:
                # The indexing job looks whether it may remove an old version; that takes no time.
                if time.monotonic() > patient_until:
                    raise
                time.sleep(0.05)


class StoreDocuments:
    """One store as far as one caller may see it: a `rag.engine.Searcher` for answers that rest on its files."""

    def __init__(
        self,
        search: StoreSearch,
        store: str,
        filter: Filter | None = None,
        tenant: Mapping[str, str] | None = None,
        min_score: float | None = None,
    ) -> None:
        self._search = search
        self._store = store
        self._options: dict[str, Any] = {"filter": filter, "tenant": tenant, "min_score": min_score}

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        """Passages for each text; a source's document is the file."""
        with retrieving():
            found = [self._search.search(self._store, [text], top_k, **self._options) for text in texts]
        return [
            [
                Source(number, one.file_id, one.filename, one.text, one.score, dict(one.attributes))
                for number, one in enumerate(results, start=1)
            ]
            for results in found
        ]


def _closer(retriever: Retriever) -> Callable[[], None]:
    return retriever.close


def _condition(files: Mapping[str, StoreFile], filter: Filter | None, tenant: Mapping[str, str]) -> Filter:
    """What may be found: passages of files that are in the store and whose attributes pass."""
    from rag.filters import AllOf, AnyOf, Condition, matches

    passing = [file for file in files.values() if filter is None or matches(filter, file.attributes)]
    parts: list[Filter] = [_in_files(passing)]
    for key, value in tenant.items():
        values = tenant_values(value)
        own = Condition("in", key, values)
        theirs = [file for file in passing if matches(own, file.attributes)]
        silent = [file for file in passing if key not in file.attributes]
        by_row = AllOf((_in_files(silent), own))
        parts.append(AnyOf((_in_files(theirs), by_row)))
    return AllOf(tuple(parts))


def _in_files(files: Iterable[StoreFile]) -> Filter:
    from rag.filters import Condition
    from serve.vector_store_child import file_field

    return Condition("in", "file", tuple(file_field(file.id, file.filename) for file in files))


def _result(source: Source, files: Mapping[str, StoreFile]) -> Result:
    from serve.vector_store_child import file_of

    file = files[file_of(str(source.metadata["file"]))]
    return Result(file.id, file.filename, source.score, file.attributes, source.text)

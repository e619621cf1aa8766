"""From a text to the passages that answer it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from core.errors import ArtifactError, DataError, Locked
from core.locks import hold
from core.settings import UseCase
from core.types import Source
from core.workspace import UseCaseFolder, Workspace
from rag.embedding import Encoder, Vectors, load_encoder
from rag.fusion import Hits, dense_weight, fused
from rag.ingest import version_lock
from rag.lexical import Lexical, best
from rag.origin import INDEX_VERSION, Origin, load_origin
from rag.passages import WHOLE_TOKENS, Passages, joined, source
from rag.store import Store, open_store
from rag.vectors import open_vectors

CANDIDATES = 100
"""Chunks that each of the two searches gives before they are fused and grouped into passages."""

Method = Literal["hybrid", "dense", "lexical"]


class Retriever:
    """An open index version. Searching is thread-safe; other processes cannot open the version until it is closed."""

    def __init__(
        self,
        folder: UseCaseFolder,
        version: Path,
        origin: Origin,
        encoder: Encoder,
        passages: Passages,
        store: Store,
        lexical: Lexical,
        vectors: Vectors,
    ) -> None:
        self._folder = folder
        self._version = version
        self._encoder = encoder
        self._passages = passages
        self._store = store
        self._lexical = lexical
        self._vectors = vectors
        self._weight = dense_weight(encoder.languages, origin.language)
        self.origin = origin
        """What the index was made from and with."""

    @property
    def version(self) -> str:
        return self._version.name

    @property
    def document_ids(self) -> list[str]:
        """Ids of all documents, in the order they were read."""
        return self._passages.document_ids

    def search(self, texts: Sequence[str], top_k: int, method: Method = "hybrid") -> list[list[Source]]:
        """The best `top_k` passages for each text, best first, numbered from 1.

        A passage is a whole document where that is short, else a chunk of it; no document that is shown whole comes
        twice. `score` is at most 1 and compares across texts; so does the cosine in the metadata.
        """
        if not texts:
            return []
        vectors = self._encoder.queries(texts)
        near = (
            self._store.search(vectors, max(CANDIDATES, 2 * top_k))
            if method != "lexical"
            else [Hits([], [])] * len(texts)
        )
        return [
            self._one(text, vector, hits, top_k, method)
            for text, vector, hits in zip(texts, vectors, near, strict=True)
        ]

    def _one(self, text: str, vector: Vectors, near: Hits, top_k: int, method: Method) -> list[Source]:
        if method == "dense":
            return self._grouped(near, dict(zip(*near, strict=True)), top_k)
        scores = self._lexical.scores(text)
        rows = np.union1d(np.asarray(near.rows, np.int64), best(scores, max(CANDIDATES, 2 * top_k)))
        cosines = self._vectors[rows] @ vector
        hits = fused(rows, cosines, scores[rows], 0.0 if method == "lexical" else self._weight)
        return self._grouped(hits, dict(zip(rows.tolist(), cosines.tolist(), strict=True)), top_k)

    def documents(self, ids: Sequence[str], text: str | None = None, top_k: int = 3) -> list[Source]:
        """The documents of the given ids as passages, numbered from 1 in the order of `ids`.

        A short document is given whole. Of a long one, the `top_k` chunks nearest to `text` in reading order; its
        beginning when there is no text to be near to.

        Raises:
            DataError: the index has no document of that id; near ids are named.
        """
        return [self._document(id, number, text, top_k) for number, id in enumerate(ids, start=1)]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every document as (id, whole text), in the order they were read."""
        for entry in self._passages.entries:
            yield entry.id, joined(self._passages.rows_of(entry))

    def close(self) -> None:
        """Release the index. A version that is no longer in force is removed from the disk. Harmless when repeated."""
        self._store.close()
        self._passages.close()
        active = self._folder.index.active()
        if active is not None and active != self._version and self._version.exists():
            try:
                with hold(version_lock(self._version), f"index {self.version}"):
                    self._folder.index.drop(self.version)
            except Locked:
                return

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grouped(self, hits: Hits, cosines: Mapping[int, float], top_k: int) -> list[Source]:
        """Chunks to passages: those of a short document become the document, at its best chunk's place.

        Of passages with the same text (one page under two names) the first stands for all; the others' document ids
        are in its metadata, `also_in`, one a line.
        """
        sources: dict[str, Source] = {}
        seen: set[int] = set()
        for row, score in zip(*hits, strict=True):
            number = self._passages.entry_of(row)
            entry = self._passages.entries[number]
            if self._passages.whole(number):
                if number in seen:
                    continue
                seen.add(number)
                parts = self._passages.rows_of(entry)
            else:
                parts = [self._passages.row(row)]
            found = source(entry, parts, len(sources) + 1, score, cosines.get(row))
            same = sources.get(found.text)
            if same is not None:
                if same.document_id != entry.id:
                    others = str(same.metadata.get("also_in", "")).split("\n")
                    same.metadata["also_in"] = "\n".join(dict.fromkeys([*filter(None, others), entry.id]))
                continue
            if len(sources) == top_k:
                # Equal texts have equal scores and follow each other: none of those kept has another twin.
                break
            sources[found.text] = found
        return list(sources.values())

    def _document(self, id: str, number: int, text: str | None, top_k: int) -> Source:
        entry = self._passages.find(id)
        if entry is None:
            from core.errors import UnknownName

            raise DataError(
                str(UnknownName("document", id, self.document_ids, hint=f"(index of {self._folder.name!r})"))
            )
        rows = self._passages.rows_of(entry)
        if not rows:
            raise DataError(f"document {id!r} holds no text")
        if entry.tokens > WHOLE_TOKENS and len(rows) > top_k:
            if text is None:
                rows = rows[:top_k]
            else:
                vectors = self._encoder.passages([row["text"] for row in rows])
                near = vectors @ self._encoder.queries([text])[0]
                rows = [rows[i] for i in sorted(near.argsort()[::-1][:top_k])]
        return source(entry, rows, number, 1.0)


def open_retriever(folder: UseCaseFolder, settings: UseCase, workspace: Workspace) -> Retriever:
    """The index in force of a use case, ready to search. Close it.

    Raises:
        DataError: the use case has no index yet; says how to make one.
        Locked: another process (a server, say) has the index open.
        ArtifactError: it was made with another embedding model, or is damaged; says how to make it anew.
    """
    encoder = load_encoder(settings.embedding_model, workspace.models)
    while True:
        version = folder.index.active()
        if version is None:
            raise DataError(f"use case {folder.name!r} has no documents yet; run: tunefork ingest {folder.name} PATH")
        try:
            return _open(folder, version, settings, encoder)
        except ArtifactError as exc:
            # An ingest may have put another version in force and dropped this one just now.
            if folder.index.active() == version:
                raise ArtifactError(f"{exc}; run `tunefork ingest {folder.name} --rebuild` to make it anew") from exc


def _open(folder: UseCaseFolder, version: Path, settings: UseCase, encoder: Encoder) -> Retriever:
    origin = load_origin(version)
    if origin.embedding_fingerprint != encoder.fingerprint:
        raise ArtifactError(
            f"the index of {folder.name!r} was made with the embedding model {origin.embedding_model!r}, the use case"
            f" declares {settings.embedding_model!r}"
        )
    if origin.index_version != INDEX_VERSION:
        raise ArtifactError(
            f"the index of {folder.name!r} was made by Tunefork {origin.tunefork_version} in another layout"
        )
    store = open_store(version, version_lock(version), f"the index of {folder.name!r}")
    try:
        passages = Passages(version)
        lexical = Lexical(version / "words")
        vectors = open_vectors(version, encoder.dimensions)
        counts = (store.count(), len(vectors), lexical.rows, len(passages))
        if set(counts) != {origin.passages} or len(passages.entries) != origin.documents:
            raise ArtifactError(
                f"{version}: damaged: {counts} vectors, vectors, words and passages of {len(passages.entries)} documents"
                f" where {origin.passages} of {origin.documents} are expected"
            )
        # A first search shows what is broken below the counts, and warms up.
        store.search(vectors[:1], 1)
    except BaseException:
        store.close()
        raise
    return Retriever(folder, version, origin, encoder, passages, store, lexical, vectors)

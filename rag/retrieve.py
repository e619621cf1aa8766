"""From a text to the passages that answer it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError, DataError, EngineUnavailable
from core.search_settings import SearchSettings
from core.settings import UseCase
from core.types import Source
from core.workspace import UseCaseFolder, Workspace
from rag.diversity import Kept, marginal
from rag.embedding import Encoder, Vectors, load_encoder
from rag.evidence import passage_evidence
from rag.fields import Fields
from rag.filters import Filter
from rag.fusion import FOREIGN_WEIGHT, Hits, dense_weight, fused, ranked, squashed
from rag.late import NAME as LATE
from rag.late import LateInteraction, standing
from rag.lexical import Lexical, Scored, best
from rag.origin import INDEX_VERSION, Origin, load_origin
from rag.passages import WHOLE_TOKENS, Passages, embedded_text, joined, source
from rag.scale import measured
from rag.store import Store, drop_version, open_store, version_lock
from rag.vectors import open_vectors

MMR_POOL = 4
"""Times `top_k`: passages that maximal marginal relevance chooses from."""

_BLOCK = 1 << 16

Allowed = NDArray[np.bool_] | None
"""(passages,) which rows a search may return; None: all."""


class Search(Protocol):
    """Passages for texts, by settings and a filter that are fixed already."""

    def __call__(self, texts: Sequence[str], top_k: int) -> list[list[Source]]: ...


@dataclass(frozen=True)
class _Asked:
    """One text, and what the whole index says about it."""

    text: str
    vector: Vectors
    words: Scored


@dataclass
class _Found:
    """A passage on its way to being a Source."""

    source: Source
    """Its score is that of the order it stands in, not yet squashed."""
    row: int
    """The chunk it was found by."""


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
        settings: SearchSettings,
        models: Path,
    ) -> None:
        self._folder = folder
        self._version = version
        self._encoder = encoder
        self._passages = passages
        self._fields = Fields(passages)
        self._store = store
        self._lexical = lexical
        self._vectors = vectors
        self._models = models
        self._scale = measured(vectors)
        self._weight = dense_weight(encoder.languages, origin.language)
        self._foreign = self._weight == FOREIGN_WEIGHT
        self._interaction: LateInteraction | None = None
        self._lock = threading.Lock()
        self.settings = settings
        """How it searches unless told otherwise: what the use case declared when it was opened."""
        self.origin = origin
        """What the index was made from and with."""

    @property
    def version(self) -> str:
        return self._version.name

    @property
    def document_ids(self) -> list[str]:
        """Ids of all documents, in the order they were read."""
        return self._passages.document_ids

    def search(
        self,
        texts: Sequence[str],
        top_k: int,
        settings: SearchSettings | None = None,
        filter: Filter | None = None,
    ) -> list[list[Source]]:
        """The best `top_k` passages for each text, best first, numbered from 1.

        A passage is a whole document where that is short, else a chunk of it; no document that is shown whole comes
        twice. `score` is at most 1 and compares across texts (but for `rrf`); so does the cosine in the metadata.

        Args:
            settings: in place of the retriever's own.
            filter: only passages that it lets pass are looked at; fewer than `top_k` may be left.

        Raises:
            ArtifactError, UnknownName, EngineUnavailable: the reranker that the settings name cannot be loaded.
        """
        return self.search_vectors(texts, self._encoder.queries(texts), top_k, settings, filter)

    def search_vectors(
        self,
        texts: Sequence[str],
        vectors: Vectors,
        top_k: int,
        settings: SearchSettings | None = None,
        filter: Filter | None = None,
    ) -> list[list[Source]]:
        """`search` for texts whose embeddings, `embed(texts)`, are known."""
        if not texts:
            return []
        settings = self.settings if settings is None else settings
        allowed = self._fields.allowed(filter)
        count = max(settings.candidates, 2 * top_k)
        near = [Hits([], [])] * len(texts) if settings.method == "lexical" else self._near(vectors, count, allowed)
        return [
            self._one(_Asked(text, vector, self._words(text, allowed)), hits, count, top_k, settings)
            for text, vector, hits in zip(texts, vectors, near, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, dimensions] of texts to search with."""
        return self._encoder.queries(texts)

    def using(self, settings: SearchSettings, filter: Filter | None = None) -> Search:
        """`search` with other settings, and a filter that its caller cannot lift."""
        return partial(self.search, settings=settings, filter=filter)

    def _near(self, vectors: Vectors, k: int, allowed: Allowed) -> list[Hits]:
        """The `k` rows nearest to each vector, by cosine."""
        if allowed is None:
            return self._store.search(vectors, k)
        share = float(allowed.mean()) if allowed.size else 0.0
        if share > 0.5:
            hits = [_passing(one, allowed, k) for one in self._store.search(vectors, 3 * k)]
            if all(len(one.rows) == min(k, int(allowed.sum())) for one in hits):
                return hits
        # Chroma filters by walking its graph, and misses rows where few pass; looking at each misses none.
        rows = np.flatnonzero(allowed)
        cosines = np.concatenate(
            [self._vectors[rows[at : at + _BLOCK]] @ vectors.T for at in range(0, max(1, len(rows)), _BLOCK)]
        )
        return [_nearest(rows, column, k) for column in cosines.T]

    def _words(self, text: str, allowed: Allowed) -> Scored:
        found = self._lexical.scores(text)
        return found if allowed is None else found._replace(scores=np.where(allowed, found.scores, np.float32(0)))

    def _one(self, asked: _Asked, near: Hits, count: int, top_k: int, settings: SearchSettings) -> list[Source]:
        depth = top_k
        if settings.rerank_model is not None:
            depth = max(depth, settings.rerank_depth)
        if settings.mmr is not None:
            depth = max(depth, MMR_POOL * top_k)
        found = self._grouped(self._fused(asked, near, count, settings), depth, settings.near_duplicates)
        squash = settings.rerank_model == LATE or (settings.method == "hybrid" and settings.fusion == "convex")
        if settings.rerank_model == LATE:
            found = self._late(asked, found, settings.rerank_depth)
        elif settings.rerank_model is not None:
            found, squash = self._reranked(asked.text, found, settings.rerank_model, settings.rerank_depth), False
        found = [self._told(asked, one, squash) for one in found]
        if settings.min_score is not None:
            found = [one for one in found if one.source.score >= settings.min_score]
        if settings.mmr is not None and found:
            scores = [one.source.score for one in found]
            chosen = marginal(scores, self._vectors[[one.row for one in found]], top_k, settings.mmr)
            found = [found[i] for i in chosen]
        return [replace(one.source, number=number) for number, one in enumerate(found[:top_k], start=1)]

    def _fused(self, asked: _Asked, near: Hits, count: int, settings: SearchSettings) -> Hits:
        if settings.method == "dense":
            return near
        scores = asked.words.scores
        rows = np.union1d(np.asarray(near.rows, np.int64), best(scores, count))
        if settings.method == "lexical":
            return ranked(rows, scores[rows] / np.float32(asked.words.ceiling))
        nearness = self._scale.standard(self._vectors[rows] @ asked.vector, asked.vector)
        weight = self._weight if settings.dense_weight is None else settings.dense_weight
        return ranked(rows, fused(rows, nearness, scores[rows], weight, settings.fusion))

    def _late(self, asked: _Asked, found: list[_Found], depth: int) -> list[_Found]:
        """`found` with late interaction added to the scores of the first `depth`; the others follow them."""
        with self._lock:
            if self._interaction is None:
                self._interaction = LateInteraction(self._encoder)
        read, others = found[:depth], found[depth:]
        if not read:
            return found
        texts = [embedded_text(self._passages.row(one.row)) for one in read]
        scores = self._interaction.scores(asked.text, [one.row for one in read], texts)
        total = np.array([one.source.score for one in read]) + standing(scores)
        # Those that were not read keep their order below: their scores lack what the others were given.
        ceiling = float(total.min())
        others = [_scored(one, min(one.source.score, ceiling)) for one in others]
        return [_scored(read[i], float(total[i])) for i in np.argsort(-total, kind="stable")] + others

    def _reranked(self, text: str, found: list[_Found], model: str, depth: int) -> list[_Found]:
        """The first `depth` of `found` in the reranker's order, with its scores.

        The others are left out: their scores would not compare with the reranker's.
        """
        from rag.rerank import load_reranker

        read = found[:depth]
        texts = [f"{one.source.title}\n{one.source.text}" if one.source.title else one.source.text for one in read]
        scores = load_reranker(model, self._models).scores(text, texts)
        return [_scored(read[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def _told(self, asked: _Asked, one: _Found, squash: bool) -> _Found:
        """With the score as it is shown, and what there is to know about the match in the metadata."""
        cosine = self._vectors[one.row] @ asked.vector
        evidence = passage_evidence(
            float(self._scale.standard(cosine, asked.vector)),
            float(asked.words.scores[one.row]) / asked.words.ceiling,
            len(self._passages),
            foreign=self._foreign,
        )
        metadata = {**one.source.metadata, "cosine": float(cosine), "evidence": evidence}
        score = squashed(one.source.score) if squash else one.source.score
        return replace(one, source=replace(one.source, score=score, metadata=metadata))

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
            # Its Chroma server may be gone: the next ingest drops the version then.
            with suppress(EngineUnavailable):
                drop_version(self._folder.index, self.version)

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grouped(self, hits: Hits, count: int, near_duplicates: float) -> list[_Found]:
        """Chunks to `count` passages: those of a short document become the document, at its best chunk's place.

        Of passages with the same text (one page under two names) the first stands for all; the others' document ids
        are in its metadata, `also_in`, one a line. So are those of near duplicates, in `similar_in`.
        """
        found: dict[str, _Found] = {}
        order: list[_Found] = []
        kept = Kept(near_duplicates)
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
            one = source(entry, parts, len(found) + 1, score)
            same = found.get(one.text)
            if same is not None:
                _note(same.source, "also_in", entry.id)
                continue
            if len(found) == count:
                # Equal texts have equal scores and follow each other: none of those kept has another twin.
                break
            like = kept.like(one.text)
            if like is not None:
                _note(order[like].source, "similar_in", entry.id)
                continue
            kept.add(one.text)
            found[one.text] = _Found(one, row)
            order.append(found[one.text])
        return order

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
            return _open(folder, version, settings, encoder, workspace.models)
        except ArtifactError as exc:
            # An ingest may have put another version in force and dropped this one just now.
            if folder.index.active() == version:
                raise ArtifactError(f"{exc}; run `tunefork ingest {folder.name} --rebuild` to make it anew") from exc


def _open(folder: UseCaseFolder, version: Path, settings: UseCase, encoder: Encoder, models: Path) -> Retriever:
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
    return Retriever(
        folder,
        version,
        origin,
        encoder,
        passages,
        store,
        lexical,
        vectors,
        settings.retrieval,
        models,
    )


def _passing(hits: Hits, allowed: NDArray[np.bool_], k: int) -> Hits:
    """The first `k` of `hits` that are allowed."""
    kept = [(row, score) for row, score in zip(*hits, strict=True) if allowed[row]][:k]
    return Hits([row for row, _ in kept], [score for _, score in kept])


def _nearest(rows: NDArray[np.int64], cosines: NDArray[np.float32], k: int) -> Hits:
    top = np.argpartition(-cosines, k)[:k] if k < len(rows) else np.arange(len(rows))
    return ranked(rows[top], cosines[top])


def _scored(found: _Found, score: float) -> _Found:
    return replace(found, source=replace(found.source, score=score))


def _note(kept: Source, key: str, document_id: str) -> None:
    """Add a document to a list in a passage's metadata, one id a line; its own id is none."""
    if document_id != kept.document_id:
        others = filter(None, str(kept.metadata.get(key, "")).split("\n"))
        kept.metadata[key] = "\n".join(dict.fromkeys([*others, document_id]))

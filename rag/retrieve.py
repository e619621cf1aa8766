"""From a text to the passages that answer it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import DataError, EngineUnavailable, UnknownName
from core.search_settings import SearchSettings
from core.types import Source
from core.workspace import UseCaseFolder
from rag.dense import Allowed, nearest
from rag.diversity import marginal
from rag.embedding import Encoder, Vectors
from rag.evidence import passage_evidence
from rag.fields import Fields
from rag.filters import Filter
from rag.fusion import FOREIGN_WEIGHT, Hits, dense_weight, fused, ranked, squashed
from rag.grouping import Found, grouped, rescored
from rag.late import NAME as LATE
from rag.late import LateInteraction, standing
from rag.lexical import Lexical, Scored, best
from rag.origin import Origin
from rag.passages import WHOLE_TOKENS, PassageRow, Passages, embedded_text, joined, source
from rag.scale import measured
from rag.store import Store, drop_version

MMR_POOL = 4
"""Times `top_k`: passages that maximal marginal relevance chooses from."""


@dataclass(frozen=True)
class _Asked:
    """One text, and what the whole index says about it."""

    text: str
    vector: Vectors
    words: Scored


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
        near = (
            [Hits([], [])] * len(texts)
            if settings.method == "lexical"
            else nearest(self._store, self._vectors, vectors, count, allowed)
        )
        return [
            self._one(_Asked(text, vector, self._words(text, allowed)), hits, count, top_k, settings)
            for text, vector, hits in zip(texts, vectors, near, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, dimensions] of texts to search with."""
        return self._encoder.queries(texts)

    def encode(self, passages: Sequence[str]) -> Vectors:
        """[n, dimensions] of texts to be found."""
        return self._encoder.passages(passages)

    def sample(self, count: int) -> list[PassageRow]:
        """Up to `count` passages, evenly over the index."""
        return [self._passages.row(i) for i in range(0, len(self._passages), max(1, len(self._passages) // count))][
            :count
        ]

    def using(self, settings: SearchSettings) -> View:
        """This retriever, searching with other settings."""
        return View(self, settings)

    def _words(self, text: str, allowed: Allowed) -> Scored:
        found = self._lexical.scores(text)
        return found if allowed is None else found._replace(scores=np.where(allowed, found.scores, np.float32(0)))

    def _one(self, asked: _Asked, near: Hits, count: int, top_k: int, settings: SearchSettings) -> list[Source]:
        depth = top_k
        if settings.rerank_model is not None:
            depth = max(depth, settings.rerank_depth)
        if settings.mmr is not None:
            depth = max(depth, MMR_POOL * top_k)
        found = grouped(self._passages, self._fused(asked, near, count, settings), depth, settings.near_duplicates)
        squash = settings.method == "hybrid" and settings.fusion == "convex"
        # Token by token, an encoder of other languages ranks by noise: XQuAD zh falls from .964 to .941.
        if settings.rerank_model is not None and not (settings.rerank_model == LATE and self._foreign):
            found = self._reranked(asked, found, settings.rerank_model, settings.rerank_depth)
            squash = settings.rerank_model == LATE
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

    def _late(self, asked: _Asked, read: list[Found]) -> list[float]:
        with self._lock:
            if self._interaction is None:
                self._interaction = LateInteraction(self._encoder)
        texts = [embedded_text(self._passages.row(one.row)) for one in read]
        scores = self._interaction.scores(asked.text, [one.row for one in read], texts)
        return [one.source.score + float(more) for one, more in zip(read, standing(scores), strict=True)]

    def _reranked(self, asked: _Asked, found: list[Found], model: str, depth: int) -> list[Found]:
        """`found` with the first `depth` in the reranker's order and with its scores; the others follow.

        Their own scores do not compare with the reranker's: they have the lowest of those.
        """
        read, others = found[:depth], found[depth:]
        if not read:
            return found
        if model == LATE:
            scores = self._late(asked, read)
        else:
            from rag.rerank import load_reranker

            texts = [f"{s.title}\n{s.text}" if s.title else s.text for s in (one.source for one in read)]
            scores = load_reranker(model, self._models).scores(asked.text, texts).tolist()
        order = sorted(range(len(read)), key=lambda i: -scores[i])
        return [rescored(read[i], scores[i]) for i in order] + [rescored(one, min(scores)) for one in others]

    def _told(self, asked: _Asked, one: Found, squash: bool) -> Found:
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

    def _document(self, id: str, number: int, text: str | None, top_k: int) -> Source:
        entry = self._passages.find(id)
        if entry is None:
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


@dataclass(frozen=True)
class View:
    """A retriever with settings of its own. A `rag.engine.Searcher`."""

    retriever: Retriever
    settings: SearchSettings

    def search(self, texts: Sequence[str], top_k: int, filter: Filter | None = None) -> list[list[Source]]:
        return self.retriever.search(texts, top_k, self.settings, filter)

"""What a search takes as an index grows: synthetic passages, vectors and words, the real Chroma, BM25 and files.

Vectors stand in clusters around 1 centre for 50 passages, words are drawn from 100,000 by Zipf's law, 80 a passage; a
question is a passage's vector with noise and eight of its words. The embedding of the question is not in the times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from core.progress import say
from core.search_settings import SearchSettings
from core.workspace import UseCaseFolder
from rag.documents import Scalar
from rag.embedding import Vectors
from rag.lexical import Lexical, build_lexical
from rag.origin import INDEX_VERSION, Origin, tunefork_version
from rag.passages import Entry, PassageRow, Passages, PassageWriter
from rag.retrieve import Retriever
from rag.store import create_store
from rag.vectors import VectorWriter, open_vectors

DIMENSIONS, VOCABULARY, LENGTH, QUERIES, TOP_K = 384, 100_000, 80, 200, 4
BATCH = 5_000
EMBEDDING = "synthetic"


class _Encoder:
    """The name of an encoder: the questions' vectors are given."""

    name = fingerprint = EMBEDDING
    dimensions = DIMENSIONS
    languages = ("en",)
    max_tokens = 254


def latency(sizes: tuple[int, ...]) -> dict[str, Any]:
    """p50 and p95 of one search, in ms, by number of passages and method."""
    found: dict[str, Any] = {"load_average": os.getloadavg()[0], "queries": QUERIES, "sizes": {}}
    for size in sizes:
        with TemporaryDirectory() as folder:
            found["sizes"][str(size)] = _measured(Path(folder), size)
    return found


class Synthetic(NamedTuple):
    """An open index of drawn passages, and questions about passages of it."""

    retriever: Retriever
    vectors: Vectors
    built_s: float
    rows: np.ndarray
    """The passage that each question is about."""
    asked: Vectors
    texts: list[str]


def synthetic(
    folder: Path, size: int, questions: int, metadata: Sequence[dict[str, Scalar]] | None = None
) -> Synthetic:
    """An index of `size` passages in `folder`, each with its own of `metadata`."""
    rng = np.random.default_rng(0)
    centres = _unit(rng.normal(size=(max(1, size // 50), DIMENSIONS)))
    vectors = _unit(centres[rng.integers(0, len(centres), size)] + 0.06 * rng.normal(size=(size, DIMENSIONS)))
    ranks = np.arange(1, VOCABULARY + 1)
    words = rng.choice(VOCABULARY, size=(size, LENGTH), p=(1 / ranks) / (1 / ranks).sum())
    start = time.perf_counter()
    retriever = _built(folder, vectors, words, metadata)
    built_s = time.perf_counter() - start
    say(f"{size} passages: built in {built_s:.0f} s")
    rows = rng.integers(0, size, questions)
    asked = _unit(vectors[rows] + 0.03 * rng.normal(size=(len(rows), DIMENSIONS)))
    texts = [" ".join(f"w{word}" for word in rng.choice(words[row], 8)) for row in rows]
    return Synthetic(retriever, vectors, built_s, rows, asked, texts)


def _measured(folder: Path, size: int) -> dict[str, Any]:
    retriever, _, built_s, rows, asked, texts = synthetic(folder, size, QUERIES + 10)
    value: dict[str, Any] = {"built_s": built_s}
    for method in ("hybrid", "dense", "lexical"):
        settings = SearchSettings(method=method)
        taken = []
        hits = 0
        for i, (text, vector) in enumerate(zip(texts, asked, strict=True)):
            start = time.perf_counter()
            (sources,) = retriever.search_vectors([text], vector[None], TOP_K, settings)
            if i >= 10:
                taken.append(1000 * (time.perf_counter() - start))
            hits += sources[0].document_id == f"d{rows[i]}"
        p50, p95 = np.percentile(taken, [50, 95])
        value[method] = {"p50_ms": float(p50), "p95_ms": float(p95), "found_first": hits / len(rows)}
        say(f"{size} passages: {method} p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    retriever.close()
    return value


def _built(
    folder: Path, vectors: Vectors, words: np.ndarray, metadata: Sequence[dict[str, Scalar]] | None = None
) -> Retriever:
    """An index of one document a passage, through the parts that an ingest writes it with."""
    version = folder / "index" / "v0001"
    version.mkdir(parents=True)
    size = len(vectors)
    texts = (" ".join(f"w{word}" for word in row) for row in words)
    with PassageWriter(version) as writer:
        for i, text in enumerate(texts):
            row: dict[str, Any] = dict.fromkeys(PassageRow.__annotations__)
            row |= {"document_id": f"d{i}", "number": 0, "title": "", "headings": [], "start": 0, "end": len(text)}
            row |= {"text": text, "context": "", "tokens": LENGTH}
            known = {} if metadata is None else metadata[i]
            writer.add(Entry(f"d{i}", "", "corpus.jsonl", i, 1, LENGTH, known), [row])  # type: ignore[list-item]
    with VectorWriter(version, DIMENSIONS) as file:
        file.append([i.to_bytes(16, "big") for i in range(size)], vectors)
    build_lexical(version / "words", (" ".join(f"w{word}" for word in row) for row in words), "en")
    store = create_store(version)
    collection = store.vector_store._collection
    for at in range(0, size, BATCH):
        part = range(at, min(at + BATCH, size))
        collection.add(ids=[str(i) for i in part], embeddings=vectors[at : at + BATCH])
    origin = Origin(
        tunefork_version=tunefork_version(),
        reader_version=0,
        index_version=INDEX_VERSION,
        embedding_model=EMBEDDING,
        embedding_fingerprint=EMBEDDING,
        dimensions=DIMENSIONS,
        language="en",
        chunking={},
        files=1,
        documents=size,
        empty_documents=0,
        passages=size,
        content_hash="",
        created="",
    )
    (folder / "index" / "active").write_text("v0001\n", encoding="utf-8")
    return Retriever(
        UseCaseFolder(folder),
        version,
        origin,
        _Encoder(),  # type: ignore[arg-type]
        Passages(version),
        store,
        Lexical(version / "words"),
        open_vectors(version, DIMENSIONS),
        SearchSettings(),
        folder,
    )


def _unit(vectors: np.ndarray) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

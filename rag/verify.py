"""Whether an index holds what it should, part by part: counts, hashes, every passage, and vectors made anew.

Hashes find a byte that changed on the disk; the rest finds parts that do not belong
together. Chroma's files change when they are opened, so they are checked by what
they answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import ArtifactError, DataError, Locked, TuneforkError
from core.files import read_json, sha256_file
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.embedding import fingerprint, load_encoder
from rag.lexical import Lexical
from rag.origin import FileRecord, Origin, content_hash, load_origin
from rag.passages import Passages, embedded_text
from rag.vectors import key, open_vectors, read_keys

SAMPLES = 64
"""Passages embedded anew, and searched for in Chroma and among the words."""

SAME_COSINE = 0.99
"""Of a text's two embeddings by one model: bf16 and other neighbours in the batch move them by some .001."""

_NEAREST = 10
_BATCH = 5_000


@dataclass(frozen=True)
class Check:
    part: str
    problem: str | None
    """What is wrong with the part; None when it is sound."""


@dataclass(frozen=True)
class Verification:
    use_case: str
    version: str
    passages: int
    documents: int
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        return not any(check.problem for check in self.checks)


def verify(folder: UseCaseFolder, settings: UseCase, workspace: Workspace, samples: int = SAMPLES) -> Verification:
    """The index in force, checked; nothing is changed.

    Raises:
        DataError: the use case has no index.
        Locked: another process (a server, say) has the index open.
        UnknownName, ConfigError, EngineError: the embedding model cannot be loaded.
    """
    version = folder.index.active()
    if version is None:
        raise DataError(f"use case {folder.name!r} has no documents yet; run: tunefork ingest {folder.name} PATH")
    try:
        origin = load_origin(version)
    except ArtifactError as exc:
        return Verification(folder.name, version.name, 0, 0, (Check("origin.json", str(exc)),))
    checks = [Check("origin.json", None)]

    def check(part: str, problems: Callable[[], Iterator[str]]) -> None:
        try:
            checks.append(Check(part, next(problems(), None)))
        except Locked:
            raise
        except (TuneforkError, OSError, ValueError, KeyError, TypeError, IndexError) as exc:
            # Damage shows as whatever error the damaged part leads to.
            checks.append(Check(part, f"cannot be read ({exc})"))

    check("files.json", lambda: _files(version, origin))
    for name, expected in origin.parts.items():
        check(name, lambda name=name, expected=expected: _hash(version / name, expected))  # type: ignore[misc]
    check("passages", lambda: _passages(version, origin))
    check("vectors", lambda: _vectors(version, origin))
    check("embedding model", lambda: _embedding(version, origin, settings, workspace, samples))
    check("words", lambda: _words(version, origin, samples))
    check("chroma", lambda: _chroma(folder, version, origin, samples))
    return Verification(folder.name, version.name, origin.passages, origin.documents, tuple(checks))


def _files(version: Path, origin: Origin) -> Iterator[str]:
    records = [FileRecord.model_validate(one) for one in read_json(version / "files.json")]
    read = [record for record in records if not record.failed]
    if content_hash(records) != origin.content_hash:
        yield "does not list the files that the index was made from (another content hash)"
    documents = sum(record.documents for record in read)
    if (len(read), documents) != (origin.files, origin.documents):
        yield f"lists {len(read)} files with {documents} documents, not {origin.files} with {origin.documents}"


def _hash(path: Path, expected: str) -> Iterator[str]:
    if not path.is_file():
        yield "is missing"
    elif sha256_file(path) != expected:
        yield "was changed or damaged since it was written (another hash)"


def _passages(version: Path, origin: Origin) -> Iterator[str]:
    """Every row belongs to one document, numbered from 0 without a gap, and its text is as long as it says."""
    passages = Passages(version)
    try:
        if (len(passages), len(passages.entries)) != (origin.passages, origin.documents):
            yield (
                f"{len(passages)} passages of {len(passages.entries)} documents,"
                f" not {origin.passages} of {origin.documents}"
            )
        if len({entry.id for entry in passages.entries}) != len(passages.entries):
            yield "two documents have one id"
        row = 0
        for entry in passages.entries:
            if entry.first != row:
                yield f"document {entry.id!r} begins at row {entry.first}, not {row}"
            for number, one in enumerate(passages.rows_of(entry)):
                if (one["document_id"], one["number"]) != (entry.id, number):
                    yield f"row {row} is passage {one['number']} of {one['document_id']!r}, not {number} of {entry.id!r}"
                if len(one["text"]) != one["end"] - one["start"]:
                    yield f"row {row} has {len(one['text'])} characters, not {one['end'] - one['start']}"
                row += 1
        if row != origin.passages:
            yield f"the documents have {row} passages, not {origin.passages}"
    finally:
        passages.close()


def _vectors(version: Path, origin: Origin) -> Iterator[str]:
    """Every row's vector is of its text, and of length 1."""
    vectors, keys = open_vectors(version, origin.dimensions), read_keys(version, origin.dimensions)
    passages = Passages(version)
    try:
        if not len(vectors) == len(keys) == origin.passages:
            yield f"{len(vectors)} rows, not {origin.passages}"
        for row, kept in enumerate(keys):
            if kept != key(embedded_text(passages.row(row))):
                yield f"row {row} is the vector of another text"
        for at in range(0, len(vectors), _BATCH):
            lengths = np.linalg.norm(vectors[at : at + _BATCH], axis=1)
            wrong = np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))
            if len(wrong):
                yield f"row {at + wrong[0]} has the length {lengths[wrong[0]]:.3f}, not 1"
    finally:
        passages.close()


def _embedding(version: Path, origin: Origin, settings: UseCase, workspace: Workspace, samples: int) -> Iterator[str]:
    """The declared model is the index's, and gives the vectors that are stored."""
    if fingerprint(settings.embedding_model, workspace.models) != origin.embedding_fingerprint:
        yield f"the index was made with {origin.embedding_model!r}, the use case declares {settings.embedding_model!r}"
        return
    stored = open_vectors(version, origin.dimensions)
    passages = Passages(version)
    try:
        rows = _some(len(passages), samples)
        encoder = load_encoder(settings.embedding_model, workspace.models)
        anew = encoder.passages([embedded_text(passages.row(row)) for row in rows])
        cosines = np.sum(anew * stored[rows], axis=1)
        worst = int(np.argmin(cosines))
        if not cosines[worst] >= SAME_COSINE:
            yield f"row {rows[worst]} embedded anew has a cosine of {cosines[worst]:.3f} to what is stored, not 1"
    finally:
        passages.close()


def _words(version: Path, origin: Origin, samples: int) -> Iterator[str]:
    lexical = Lexical(version / "words")
    passages = Passages(version)
    try:
        if lexical.rows != origin.passages:
            yield f"{lexical.rows} rows, not {origin.passages}"
        for row in _some(len(passages), samples):
            scores = lexical.scores(embedded_text(passages.row(row))).scores
            # A passage without a word that is indexed is found by none, and neither is anything else by it.
            if scores.max() > 0 and not scores[row] > 0:
                yield f"row {row} is not found by its own words"
    finally:
        passages.close()


def _chroma(folder: UseCaseFolder, version: Path, origin: Origin, samples: int) -> Iterator[str]:
    """Every row is in the collection once, with the vector that is stored beside it, and a search finds it."""
    from rag.store import open_store, version_lock

    stored = open_vectors(version, origin.dimensions)
    with open_store(version, version_lock(version), f"the index of {folder.name!r}") as store:
        if store.count() != origin.passages:
            yield f"{store.count()} rows, not {origin.passages}"
        for at in range(0, origin.passages, _BATCH):
            rows = list(range(at, min(at + _BATCH, origin.passages)))
            held = store.vectors(rows)
            if len(held) != len(rows):
                missing = next(row for row in rows if row not in held)
                yield f"row {missing} is missing"
            for row, vector in held.items():
                if not np.allclose(vector, stored[row], atol=1e-4):
                    yield f"row {row} has another vector than the file beside it"
        rows = _some(origin.passages, samples)
        vectors = stored[rows]
        for row, vector, hits in zip(rows, vectors, store.search(vectors, _NEAREST), strict=True):
            twins = [other for other in hits.rows if np.allclose(stored[other], vector, atol=1e-4)]
            if row not in hits.rows and not twins:
                yield f"row {row} is not found by its own vector"


def _some(count: int, samples: int) -> list[int]:
    """Up to `samples` rows, evenly spread, the first and the last among them."""
    return sorted({round(row) for row in np.linspace(0, count - 1, min(count, samples))})

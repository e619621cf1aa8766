"""A new index version, built aside: texts read and cut, vectors taken from where they are known, counts verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ArtifactError, DataError
from core.files import write_json
from core.progress import progress
from core.settings import UseCase
from core.workspace import UseCaseFolder
from rag.about import metadata
from rag.chunks import Chunking, chunking_of, cut
from rag.documents import Found
from rag.embedding import Encoder, Vectors
from rag.lexical import build_lexical, guess_language
from rag.origin import INDEX_VERSION, FileRecord, Origin, content_hash, parts_of, save_origin, tunefork_version
from rag.passages import Entry, PassageRow, Passages, PassageWriter, embedded_text, passage_row
from rag.plan import Before, Planned, reason
from rag.readers import VERSION as READER_VERSION
from rag.readers import read_file
from rag.readers.contained import Parser
from rag.vectors import VectorFile, VectorWriter, key

WINDOW = 512
"""Chunks embedded and stored together: enough to batch by length, little enough to keep memory flat."""


@dataclass(frozen=True)
class Built:
    version: str
    origin: Origin
    records: list[FileRecord]
    embedded: int
    reused: int


def build(
    folder: UseCaseFolder,
    settings: UseCase,
    encoder: Encoder,
    plan: Sequence[Planned],
    before: Before | None,
    parser: Parser,
    journal: Path,
) -> Built:
    """A new version of the use case's index with the planned files, whole and verified, not yet in force.

    Args:
        journal: folder of vectors computed by ingests that were killed; those computed now go there too.

    Raises:
        DataError: not one document has text, or a corpus changed while it was read.
        ArtifactError: Chroma holds another number of vectors than there are passages.
    """
    # The stack closes first: Chroma lets go of its files before the folder is renamed.
    with folder.index.build() as staging, ExitStack() as stack:
        from rag.nodes import pipeline, text_node
        from rag.store import create_store, storing

        store = stack.enter_context(create_store(staging, settings.store))
        writer = stack.enter_context(PassageWriter(staging))
        vectors = stack.enter_context(VectorWriter(staging, encoder.dimensions))
        known = [VectorFile(journal, encoder.dimensions)]
        if before is not None:
            known.append(VectorFile(before.folder, encoder.dimensions))
        embed = _Embed(encoder, known, stack.enter_context(VectorWriter(journal, encoder.dimensions)), vectors)
        pipe = pipeline(embed, store.vector_store)
        texts = _Texts(encoder, chunking_of(encoder.max_tokens, settings.chunk_tokens), before, parser)
        documents = sum(one.record.documents for one in plan if not one.record.failed)
        window: list[Any] = []
        with progress("ingest", documents, "documents") as tick:
            for entry, rows in texts.of(plan):
                window.extend(text_node(entry, row, writer.rows + i) for i, row in enumerate(rows))
                writer.add(entry, rows)
                tick(1)
                if len(window) >= WINDOW:
                    with storing(staging):
                        pipe.run(nodes=window)
                    window = []
            if window:
                with storing(staging):
                    pipe.run(nodes=window)
        if not writer.rows:
            raise DataError(_nothing(texts.records))
        stored = store.count()
        if not stored == writer.rows == vectors.rows:
            raise ArtifactError(
                f"the new index holds {stored} vectors for {writer.rows} passages; the old one stays in force"
            )
        writer.close()
        origin = Origin(
            tunefork_version=tunefork_version(),
            reader_version=READER_VERSION,
            index_version=INDEX_VERSION,
            embedding_model=encoder.name,
            embedding_fingerprint=encoder.fingerprint,
            dimensions=encoder.dimensions,
            store=settings.store or "",
            language=_index_words(staging),
            chunking=texts.chunking.to_json(),
            chunk_tokens=settings.chunk_tokens,
            files=sum(not record.failed for record in texts.records),
            documents=writer.documents,
            empty_documents=texts.empty,
            passages=writer.rows,
            content_hash=content_hash(texts.records),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(staging / "files.json", [record.model_dump(mode="json") for record in texts.records])
        save_origin(staging, origin.model_copy(update={"parts": parts_of(staging)}))
    newest = folder.index.newest()
    assert newest is not None
    return Built(newest, origin, texts.records, embed.computed, embed.reused)


def _index_words(staging: Path) -> str:
    """Build the lexical index of the passages in `staging`; returns the language it stems for."""
    passages = Passages(staging)
    texts = [embedded_text(passages.row(i)) for i in range(0, len(passages), max(1, len(passages) // 500))]
    language = guess_language(texts)
    build_lexical(staging / "words", (embedded_text(passages.row(i)) for i in range(len(passages))), language)
    passages.close()
    return language


@dataclass
class _Texts:
    """Reads and cuts the planned files, and keeps the record of each."""

    encoder: Encoder
    chunking: Chunking
    before: Before | None
    parser: Parser
    records: list[FileRecord] = field(default_factory=list)
    empty: int = 0
    """Documents without text."""
    _owner: dict[str, str] = field(default_factory=dict)
    """File of each document id."""

    def of(self, plan: Sequence[Planned]) -> Iterator[tuple[Entry, list[PassageRow]]]:
        for one in plan:
            record = one.record
            if not record.failed:
                count = 0
                try:
                    for pair in self._file(one):
                        count += 1
                        self.empty += not pair[1]
                        yield pair
                    record = record.model_copy(update={"documents": count})
                except DataError as exc:
                    if count:
                        # Half of a corpus is in by now: it changed under our hands.
                        raise
                    record = record.model_copy(update={"failed": reason(exc, one.found), "documents": 0})
            self.records.append(record)

    def _file(self, one: Planned) -> Iterator[tuple[Entry, list[PassageRow]]]:
        if one.known and self.before is not None:
            entries = self.before.entries_by_file.get(one.found.id, [])
            self._claim([entry.id for entry in entries], one.found)
            for entry in entries:
                yield entry, self.before.passages.rows_of(entry)
            return
        if one.ids is not None:
            self._claim(one.ids, one.found)
            documents: Any = read_file(one.found, self.parser)
        else:
            documents = list(read_file(one.found, self.parser))
            self._claim([document.id for document in documents], one.found)
        for document in documents:
            chunks = cut(document, self.encoder.spans, self.chunking)
            rows = [passage_row(chunk) for chunk in chunks]
            tokens = sum(chunk.tokens for chunk in chunks)
            known = metadata(document, one.found)
            yield Entry(document.id, document.title, one.found.id, 0, len(rows), tokens, known), rows

    def _claim(self, ids: Sequence[str], found: Found) -> None:
        for id in ids:
            if id in self._owner:
                raise DataError(
                    f"its document id {id!r} is in {self._owner[id]} too; ids must differ between files", found.path
                )
        self._owner.update(dict.fromkeys(ids, found.id))


class _Embed:
    """Vectors of texts: known ones from files, new ones computed and journalled. Every one goes to the new version."""

    def __init__(self, encoder: Encoder, known: Sequence[VectorFile], journal: VectorWriter, out: VectorWriter) -> None:
        self._encoder = encoder
        self._known = known
        self._journal = journal
        self._out = out
        self.computed = 0
        self.reused = 0

    def __call__(self, texts: Sequence[str]) -> Vectors:
        keys = [key(text) for text in texts]
        vectors = np.zeros((len(texts), self._encoder.dimensions), np.float32)
        missing: dict[bytes, list[int]] = {}
        for i, one in enumerate(keys):
            found = next((v for v in (file.find(one) for file in self._known) if v is not None), None)
            if found is None:
                missing.setdefault(one, []).append(i)
            else:
                vectors[i] = found
        if missing:
            computed = self._encoder.passages([texts[places[0]] for places in missing.values()])
            self._journal.append(list(missing), computed)
            for vector, places in zip(computed, missing.values(), strict=True):
                vectors[places] = vector
        self.computed += len(missing)
        self.reused += len(texts) - len(missing)
        self._out.append(keys, vectors)
        return vectors


def _nothing(records: Sequence[FileRecord]) -> str:
    failed = [record for record in records if record.failed]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{failed[0].path}: {failed[0].failed}{more}; no document could be read"
    return "the documents hold no text; the index stays as it was"

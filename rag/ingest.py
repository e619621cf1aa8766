"""Documents into a use case's index: read, cut, embed what is new, build a version aside, put it in force.

Nothing is changed in place. A version is built in a staging folder, its counts are
verified, then one pointer moves; a reader has the old index or the new one. Files
whose bytes did not change are neither parsed nor embedded again. Vectors are kept
in a journal as they are computed, so a killed ingest loses minutes, not hours.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from core.errors import ArtifactError, DataError
from core.files import read_json, sha256_file, write_json
from core.jobs import job
from core.progress import progress
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.about import metadata
from rag.chunks import Chunking, cut
from rag.documents import Found, Left, Search, find_files
from rag.embedding import Encoder, Vectors, fingerprint, load_encoder
from rag.lexical import build_lexical, guess_language
from rag.origin import (
    INDEX_VERSION,
    FileRecord,
    Origin,
    content_hash,
    load_origin,
    made_alike,
    parts_of,
    save_origin,
    tunefork_version,
)
from rag.passages import Entry, PassageRow, Passages, PassageWriter, embedded_text, passage_row
from rag.readers import VERSION as READER_VERSION
from rag.readers import format_of, read_file
from rag.readers.contained import Parser
from rag.vectors import VectorFile, VectorWriter, key

WINDOW = 512
"""Chunks embedded and stored together: enough to batch by length, little enough to keep memory flat."""

LONGEST_CHUNK = 400
"""Tokens. Some models read thousands; a vector of so much text is near to everything and found by nothing."""


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did. Files in `failed` are not in the index; everything else is."""

    use_case: str
    version: str
    changed: bool
    """False: the index in force already held exactly this."""
    embedding_model: str
    files: int
    documents: int
    empty_documents: int
    passages: int
    embedded: int
    """Passages whose vectors were computed now."""
    reused: int
    """Passages whose vectors were known."""
    failed: tuple[Left, ...]
    left_out: tuple[Left, ...]
    seconds: float


def ingest(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, paths: Sequence[Path], *, rebuild: bool = False
) -> IngestReport:
    """Make the use case's index hold exactly the documents under `paths`, and put it in force.

    One unreadable file never stops the rest: it is named in the report. The index in force stays as it is until the
    new one is whole, and for good when this raises.

    Args:
        rebuild: read and embed everything, whatever the index in force holds.

    Raises:
        DataError: a path does not exist, or not one document could be read.
        Locked: another ingest of this use case is running.
        UnknownName, ConfigError, EngineUnavailable, ArtifactError: the embedding model cannot be loaded, or the Chroma
            server that the settings name cannot be reached.
    """
    start = time.monotonic()
    search = find_files(paths)
    with folder.lock("ingest"):
        _sweep(folder, settings.store)
        config = {"kind": "ingest", "settings": settings.model_dump(mode="json"), "paths": [str(p) for p in paths]}
        run = folder.new_run("ingest")
        with job(run, config):
            report = _ingest(folder, settings, workspace, search, rebuild, start)
            write_json(run / "report.json", report_json(report))
    return report


def chunking_of(reads: int, chunk_tokens: int | None) -> Chunking:
    """How documents are cut for a model that reads `reads` tokens, where a use case declares `chunk_tokens`."""
    if chunk_tokens is None:
        return Chunking(max_tokens=min(reads, LONGEST_CHUNK))
    longest = min(reads, chunk_tokens)
    return Chunking(max_tokens=longest, target_tokens=longest, small_tokens=min(60, longest // 3))


def report_json(report: IngestReport) -> dict[str, Any]:
    """The report as the command prints it."""
    value = {name: getattr(report, name) for name in report.__dataclass_fields__}
    for name in ("failed", "left_out"):
        value[name] = [{"path": one.path, "reason": one.reason} for one in value[name]]
    return {**value, "seconds": round(report.seconds, 3)}


def _ingest(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, search: Search, rebuild: bool, start: float
) -> IngestReport:
    model = fingerprint(settings.embedding_model, workspace.models)
    before = None if rebuild else _Before.load(folder, model, settings.chunk_tokens)
    with Parser() as parser:
        plan = [_planned(found, before, parser) for found in search.files]
        records = [one.record for one in plan]
        if before is not None and before.origin.store == (settings.store or "") and before.holds(records):
            origin = before.origin
            version, changed, embedded, reused = before.folder.name, False, 0, origin.passages
        else:
            encoder = load_encoder(settings.embedding_model, workspace.models)
            built = _build(folder, encoder, plan, before, parser, settings)
            version, changed, origin, records = built.version, True, built.origin, built.records
            embedded, reused = built.embedded, built.reused
    if before is not None:
        before.passages.close()
    if changed:
        folder.index.activate(version)
    _drop_old(folder)
    shutil.rmtree(_journal_root(folder), ignore_errors=True)
    failed = [Left(record.path, record.failed) for record in records if record.failed]
    return IngestReport(
        use_case=folder.name,
        version=version,
        changed=changed,
        embedding_model=origin.embedding_model,
        files=origin.files,
        documents=origin.documents,
        empty_documents=origin.empty_documents,
        passages=origin.passages,
        embedded=embedded,
        reused=reused,
        failed=(*search.failed, *failed),
        left_out=tuple(search.left),
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True)
class _Before:
    """The version in force, when it was made with the same model and the same readers."""

    origin: Origin
    files: dict[str, FileRecord]
    passages: Passages
    folder: Path

    @classmethod
    def load(cls, folder: UseCaseFolder, model: str, chunk_tokens: int | None) -> _Before | None:
        try:
            active = folder.index.active()
            if active is None:
                return None
            origin = load_origin(active)
            if not made_alike(origin, model, chunk_tokens):
                return None
            files = [FileRecord.model_validate(one) for one in read_json(active / "files.json")]
            passages = Passages(active)
        except (ArtifactError, FileNotFoundError, ValidationError):
            return None  # damaged: built anew from the documents
        if (len(passages), len(passages.entries)) != (origin.passages, origin.documents):
            passages.close()
            return None
        return cls(origin, {one.id: one for one in files}, passages, active)

    def holds(self, records: Sequence[FileRecord]) -> bool:
        """Whether the files are the same and in the same state, byte for byte."""
        return self.origin.content_hash == content_hash(records) and all(
            bool(record.failed) == bool(self.files[record.id].failed) for record in records
        )

    @cached_property
    def entries_by_file(self) -> dict[str, list[Entry]]:
        grouped: dict[str, list[Entry]] = {}
        for entry in self.passages.entries:
            grouped.setdefault(entry.file, []).append(entry)
        return grouped


@dataclass(frozen=True)
class _Planned:
    found: Found
    record: FileRecord
    known: bool
    """Its bytes are those of the version in force: passages and vectors are taken from there."""
    ids: tuple[str, ...] | None = None
    """Document ids of a corpus, from its first pass."""


def _planned(found: Found, before: _Before | None, parser: Parser) -> _Planned:
    try:
        digest = sha256_file(found.path)
    except OSError as exc:
        failed = f"cannot be read ({exc.strerror})"
        return _Planned(found, FileRecord(id=found.id, path=str(found.path), sha256=None, failed=failed), False)
    record = FileRecord(id=found.id, path=str(found.path), sha256=digest)
    old = before.files.get(found.id) if before is not None else None
    if old is not None and old.sha256 == digest and not old.failed:
        return _Planned(found, record.model_copy(update={"documents": old.documents}), True)
    try:
        if format_of(found.path) == "rows":
            from rag.readers import rows

            ids = rows.check(found.path, found.id)
            return _Planned(found, record.model_copy(update={"documents": len(ids)}), False, tuple(ids))
        if old is not None and old.failed and old.sha256 == digest:
            # It failed before: tried again, since a busy machine can make a parser time out.
            for _ in read_file(found, parser):
                break
    except DataError as exc:
        return _Planned(found, record.model_copy(update={"failed": _reason(exc, found)}), False)
    return _Planned(found, record.model_copy(update={"documents": 1}), False)


@dataclass(frozen=True)
class _Built:
    version: str
    origin: Origin
    records: list[FileRecord]
    embedded: int
    reused: int


def _build(
    folder: UseCaseFolder,
    encoder: Encoder,
    plan: Sequence[_Planned],
    before: _Before | None,
    parser: Parser,
    settings: UseCase,
) -> _Built:
    server = settings.store
    chunking = chunking_of(encoder.max_tokens, settings.chunk_tokens)
    journal = _journal_root(folder) / encoder.fingerprint
    # The stack closes first: Chroma lets go of its files before the folder is renamed.
    with folder.index.build() as staging, ExitStack() as stack:
        from rag.nodes import pipeline, text_node
        from rag.store import create_store, storing

        store = stack.enter_context(create_store(staging, server))
        writer = stack.enter_context(PassageWriter(staging))
        vectors = stack.enter_context(VectorWriter(staging, encoder.dimensions))
        known = [VectorFile(journal, encoder.dimensions)]
        if before is not None:
            known.append(VectorFile(before.folder, encoder.dimensions))
        embed = _Embed(encoder, known, stack.enter_context(VectorWriter(journal, encoder.dimensions)), vectors)
        pipe = pipeline(embed, store.vector_store)
        texts = _Texts(encoder, chunking, before, parser)
        window: list[Any] = []
        empty = 0
        with progress(
            "ingest", sum(one.record.documents for one in plan if not one.record.failed), "documents"
        ) as tick:
            for entry, rows in texts.of(plan):
                empty += not rows
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
        language = _index_words(staging)
        files = sum(not record.failed for record in texts.records)
        origin = Origin(
            tunefork_version=tunefork_version(),
            reader_version=READER_VERSION,
            index_version=INDEX_VERSION,
            embedding_model=encoder.name,
            embedding_fingerprint=encoder.fingerprint,
            dimensions=encoder.dimensions,
            store=server or "",
            language=language,
            chunking=chunking.to_json(),
            chunk_tokens=settings.chunk_tokens,
            files=files,
            documents=writer.documents,
            empty_documents=empty,
            passages=writer.rows,
            content_hash=content_hash(texts.records),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(staging / "files.json", [record.model_dump(mode="json") for record in texts.records])
        save_origin(staging, origin.model_copy(update={"parts": parts_of(staging)}))
    version = folder.index.newest()
    assert version is not None
    return _Built(version, origin, texts.records, embed.computed, embed.reused)


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
    before: _Before | None
    parser: Parser
    records: list[FileRecord] = field(default_factory=list)
    _owner: dict[str, str] = field(default_factory=dict)
    """File of each document id."""

    def of(self, plan: Sequence[_Planned]) -> Iterator[tuple[Entry, list[PassageRow]]]:
        for one in plan:
            record = one.record
            if not record.failed:
                count = 0
                try:
                    for pair in self._file(one):
                        count += 1
                        yield pair
                    record = record.model_copy(update={"documents": count})
                except DataError as exc:
                    if count:
                        # Half of a corpus is in by now: it changed under our hands.
                        raise
                    record = record.model_copy(update={"failed": _reason(exc, one.found), "documents": 0})
            self.records.append(record)

    def _file(self, one: _Planned) -> Iterator[tuple[Entry, list[PassageRow]]]:
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


def _reason(exc: DataError, found: Found) -> str:
    """What the error says, without the path that the report names anyway; the line stays."""
    text = str(exc).removeprefix(f"{found.path}:").strip()
    return f"line {text}" if exc.line is not None else text


def _nothing(records: Sequence[FileRecord]) -> str:
    failed = [record for record in records if record.failed]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{failed[0].path}: {failed[0].failed}{more}; no document could be read"
    return "the documents hold no text; the index stays as it was"


def _journal_root(folder: UseCaseFolder) -> Path:
    return folder.index.folder / ".journal"


def _sweep(folder: UseCaseFolder, server: str | None) -> None:
    """Remove what a killed ingest left. The journal stays: its vectors are the work that is not lost."""
    for leftover in folder.index.folder.glob(".v*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    if server is not None:
        from rag.chroma_server import sweep

        sweep(server, folder.index.folder)


def _drop_old(folder: UseCaseFolder) -> None:
    """Remove versions that are not in force. One that a server still reads goes with the next ingest."""
    from rag.store import drop_version

    active = folder.index.active()
    for version in folder.index.all():
        if active is None or version != active.name:
            drop_version(folder.index, version)

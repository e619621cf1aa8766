"""What an ingest has to do: which files the index in force holds already, byte for byte, and which are to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from core.errors import ArtifactError, DataError
from core.files import read_json, sha256_file
from core.workspace import UseCaseFolder
from rag.documents import Found
from rag.origin import FileRecord, Origin, content_hash, load_origin, made_alike
from rag.passages import Entry, Passages
from rag.readers import format_of, read_file
from rag.readers.contained import Parser


@dataclass(frozen=True)
class Before:
    """The version in force, when it was made with the same model and the same readers."""

    origin: Origin
    files: dict[str, FileRecord]
    passages: Passages
    folder: Path

    @classmethod
    def load(cls, folder: UseCaseFolder, model: str, chunk_tokens: int | None) -> Before | None:
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
class Planned:
    found: Found
    record: FileRecord
    known: bool
    """Its bytes are those of the version in force: passages and vectors are taken from there."""
    ids: tuple[str, ...] | None = None
    """Document ids of a corpus, from its first pass."""


def planned(found: Found, before: Before | None, parser: Parser) -> Planned:
    try:
        digest = sha256_file(found.path)
    except OSError as exc:
        failed = f"cannot be read ({exc.strerror})"
        return Planned(found, FileRecord(id=found.id, path=str(found.path), sha256=None, failed=failed), False)
    record = FileRecord(id=found.id, path=str(found.path), sha256=digest)
    old = before.files.get(found.id) if before is not None else None
    if old is not None and old.sha256 == digest and not old.failed:
        return Planned(found, record.model_copy(update={"documents": old.documents}), True)
    try:
        if format_of(found.path) == "rows":
            from rag.readers import rows

            ids = rows.check(found.path, found.id)
            return Planned(found, record.model_copy(update={"documents": len(ids)}), False, tuple(ids))
        if old is not None and old.failed and old.sha256 == digest:
            # It failed before: tried again, since a busy machine can make a parser time out.
            for _ in read_file(found, parser):
                break
    except DataError as exc:
        return Planned(found, record.model_copy(update={"failed": reason(exc, found)}), False)
    return Planned(found, record.model_copy(update={"documents": 1}), False)


def reason(exc: DataError, found: Found) -> str:
    """What the error says, without the path that the report names anyway; the line stays."""
    text = str(exc).removeprefix(f"{found.path}:").strip()
    return f"line {text}" if exc.line is not None else text

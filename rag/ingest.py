"""Documents into a use case's index: read, cut, embed what is new, build a version aside, put it in force.

Nothing is changed in place. A version is built in a staging folder, its counts are
verified, then one pointer moves; a reader has the old index or the new one. Files
whose bytes did not change are neither parsed nor embedded again. Vectors are kept
in a journal as they are computed, so a killed ingest loses minutes, not hours.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files import write_json
from core.jobs import job
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.build import build
from rag.documents import Left, Search, find_files
from rag.embedding import fingerprint, load_encoder
from rag.plan import Before, planned
from rag.readers.contained import Parser


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
    before = None if rebuild else Before.load(folder, model, settings.chunk_tokens)
    journal = folder.index.folder / ".journal"
    with Parser() as parser:
        plan = [planned(found, before, parser) for found in search.files]
        records = [one.record for one in plan]
        if before is not None and before.origin.store == (settings.store or "") and before.holds(records):
            origin = before.origin
            version, changed, embedded, reused = before.folder.name, False, 0, origin.passages
        else:
            encoder = load_encoder(settings.embedding_model, workspace.models)
            built = build(folder, settings, encoder, plan, before, parser, journal / encoder.fingerprint)
            version, changed, origin, records = built.version, True, built.origin, built.records
            embedded, reused = built.embedded, built.reused
    if before is not None:
        before.passages.close()
    if changed:
        folder.index.activate(version)
    _drop_old(folder)
    shutil.rmtree(journal, ignore_errors=True)
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

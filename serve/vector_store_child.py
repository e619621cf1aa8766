"""The job that makes a vector store's index hold exactly its files. Runs in a child process, see serve.job_child."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.settings import UseCase
from core.workspace import UseCaseFolder, open_workspace
from rag.ingest import IngestReport, ingest
from serve.files import StoredFile, link
from serve.job_child import without_paths
from serve.state import State

DOCS = "docs"
"""Folder of a store with its files, each in a folder named by its id."""


def index_store(store: str, _spec: dict[str, Any], _folder: Path) -> dict[str, Any]:
    """{"files": {file id: null or its error}} once the index in force holds the files that belong to the store now."""
    workspace = open_workspace()
    state = State(workspace.path)
    try:
        if state.one("SELECT 1 FROM vector_stores WHERE id = ?", (store,)) is None:
            return {"files": {}}
        sql = (
            "SELECT files.* FROM vector_store_files AS own JOIN files ON files.id = own.id"
            " WHERE own.store = ? AND own.status != 'cancelled' ORDER BY own.seq"
        )
        files = [StoredFile.of(row) for row in state.all(sql, (store,))]
        blobs = state.folder / "files"
    finally:
        state.close()
    folder = UseCaseFolder(workspace.path / "server" / "vector_stores" / store)
    docs = folder.path / DOCS
    _lay_out(docs, files, blobs)
    errors: dict[str, dict[str, str] | None] = {file.id: None for file in files}
    if not files:
        _empty(folder)
        return {"files": errors}
    try:
        report = ingest(folder, UseCase(name=store), workspace, [docs])
    except DataError as exc:
        # Not one of them holds a document: what was indexed before must not be found any more.
        _empty(folder)
        message = without_paths(str(exc))
        return {"files": {id: {"code": "invalid_file", "message": message} for id in errors}}
    return {"files": errors | _failed(report)}


def file_field(file: str, filename: str) -> str:
    """What the passages of a file have as metadata `file`."""
    return f"{DOCS}/{file}/{filename}"


def file_of(field: str) -> str:
    """The file id in `file_field`."""
    return field.split("/")[1]


def _lay_out(docs: Path, files: list[StoredFile], blobs: Path) -> None:
    wanted = {file.id for file in files}
    docs.mkdir(parents=True, exist_ok=True)
    for old in docs.iterdir():
        if old.name not in wanted:
            shutil.rmtree(old, ignore_errors=True)
    for file in files:
        link(blobs / file.sha256, docs / file.id / file.filename)


def _failed(report: IngestReport) -> dict[str, dict[str, str] | None]:
    errors: dict[str, dict[str, str] | None] = {}
    for code, left in (("unsupported_file", report.left_out), ("invalid_file", report.failed)):
        for one in left:
            errors[Path(one.path).parent.name] = {"code": code, "message": without_paths(one.reason)}
    return errors


def _empty(folder: UseCaseFolder) -> None:
    """Put no index in force. The versions go with the next ingest: a server may still read one."""
    (folder.index.folder / "active").unlink(missing_ok=True)

"""Vector stores: which files each has, and the jobs that index them.

A store is an index of rag.ingest in server/vector_stores/ID, over a folder with a second name of each file's bytes. The
state says which files belong to it; a job makes the index so. A file that was taken out is not found from that moment on,
since a search is told which files it may look at.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.workspace import UseCaseFolder
from serve.files import Files, StoredFile
from serve.job import Job
from serve.jobs import Jobs
from serve.state import Row, State

Attributes = dict[str, str | float | bool]
KIND = "vector_store"
DAY_S = 86_400
_FILES = "SELECT own.*, files.filename FROM vector_store_files AS own JOIN files ON files.id = own.id"


class NewFile(NamedTuple):
    file: StoredFile
    attributes: Attributes


@dataclass(frozen=True)
class StoreFile:
    """A file of a store."""

    id: str
    filename: str
    store: str
    batch: str | None
    attributes: Attributes
    status: str
    error: dict[str, str] | None
    bytes: int
    created_at: int

    @classmethod
    def of(cls, row: Row) -> StoreFile:
        error = None if row["error_code"] is None else {"code": row["error_code"], "message": row["error_message"]}
        return cls(
            id=row["id"],
            filename=row["filename"],
            store=row["store"],
            batch=row["batch"],
            attributes=json.loads(row["attributes"]),
            status=row["status"],
            error=error,
            bytes=row["bytes"],
            created_at=row["created_at"],
        )

    def document(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "vector_store.file",
            "usage_bytes": self.bytes if self.status == "completed" else 0,
            "created_at": self.created_at,
            "vector_store_id": self.store,
            "status": self.status,
            "last_error": self.error,
            "attributes": self.attributes,
            "chunking_strategy": {"type": "other"},
        }


class Stores:
    """The vector stores of a workspace. Thread-safe."""

    def __init__(self, state: State, files: Files) -> None:
        self._state = state
        self._files = files
        self._jobs: Jobs

    def attach(self, jobs: Jobs) -> None:
        """Index with `jobs` from now on; finish what a crash cut short: files that wait, deletions that got half-way."""
        self._jobs = jobs
        gone = "FROM vector_store_files WHERE id NOT IN (SELECT id FROM files)"
        with self._state.change() as db:
            for row in self._state.all(f"SELECT DISTINCT store {gone}"):
                self._index(row["store"])
            db.execute(f"DELETE {gone}")
        known = {row["id"] for row in self.rows()}
        for folder in (self._state.folder / "vector_stores").glob("*"):
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for row in self._state.all("SELECT DISTINCT store FROM vector_store_files WHERE status = 'in_progress'"):
            self._index(row["store"])

    def folder(self, id: str) -> UseCaseFolder:
        """Where its index is."""
        return UseCaseFolder(self._state.folder / "vector_stores" / id)

    def create(
        self,
        name: str,
        description: str | None,
        metadata: Mapping[str, str] | None,
        expires_after_days: int | None,
        files: Sequence[NewFile],
    ) -> str:
        """A new store with these files, which are indexed in the background; returns its id."""
        id, now = f"vs_{secrets.token_hex(12)}", _now()
        with self._state.change() as db:
            db.execute(
                "INSERT INTO vector_stores (id, name, description, metadata, created_at, last_active_at,"
                " expires_after_days) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (id, name, description, json.dumps(metadata or {}), now, now, expires_after_days),
            )
            if files:
                self.add(id, files)
        return id

    def rows(self) -> list[Row]:
        """Rows of all stores, oldest first."""
        return self._state.all("SELECT * FROM vector_stores ORDER BY seq")

    def row(self, id: str) -> Row | None:
        return self._state.one("SELECT * FROM vector_stores WHERE id = ?", (id,))

    def update(self, id: str, changes: Mapping[str, Any]) -> None:
        """Set the columns `changes` names."""
        with self._state.change() as db:
            for column, value in changes.items():
                assert column in ("name", "metadata", "expires_after_days", "last_active_at")
                db.execute(f"UPDATE vector_stores SET {column} = ? WHERE id = ?", (value, id))

    def touch(self, id: str) -> None:
        """It was used just now."""
        self.update(id, {"last_active_at": _now()})

    def delete(self, id: str) -> bool:
        """Forget a store with its index; the files themselves stay. False when there is none of that id."""
        with self._state.change() as db:
            if not db.execute("DELETE FROM vector_stores WHERE id = ?", (id,)).rowcount:
                return False
        for job in self._jobs.of(KIND, id):
            if not job.over:
                self._jobs.cancel(job.id)
        shutil.rmtree(self.folder(id).path, ignore_errors=True)
        return True

    def document(self, row: Row) -> dict[str, Any]:
        """A store as the API shows it."""
        files = self.files(row["id"])
        counts = file_counts(files)
        expires = expires_at(row)
        days = row["expires_after_days"]
        return {
            "id": row["id"],
            "object": "vector_store",
            "created_at": row["created_at"],
            "name": row["name"],
            "description": row["description"],
            "usage_bytes": sum(file.bytes for file in files if file.status == "completed"),
            "file_counts": counts,
            "status": "expired" if expired(row) else "in_progress" if counts["in_progress"] else "completed",
            "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
            "expires_at": expires,
            "last_active_at": row["last_active_at"],
            "metadata": json.loads(row["metadata"]),
        }

    def files(self, store: str, batch: str | None = None) -> list[StoreFile]:
        """The files of a store (that a batch brought), oldest first."""
        rows = self._state.all(f"{_FILES} WHERE own.store = ? ORDER BY own.seq", (store,))
        return [StoreFile.of(row) for row in rows if batch in (None, row["batch"])]

    def file(self, store: str, id: str) -> StoreFile | None:
        row = self._state.one(f"{_FILES} WHERE own.store = ? AND own.id = ?", (store, id))
        return None if row is None else StoreFile.of(row)

    def add(self, store: str, files: Iterable[NewFile], batch: str | None = None) -> None:
        """Put files into a store; one that is there already gets the new attributes, and is looked at again."""
        with self._state.change() as db:
            db.executemany(
                "INSERT INTO vector_store_files (store, id, batch, attributes, status, bytes, created_at)"
                " VALUES (?, ?, ?, ?, 'in_progress', ?, ?) ON CONFLICT DO UPDATE SET batch = excluded.batch,"
                " attributes = excluded.attributes, status = 'in_progress', error_code = NULL, error_message = NULL",
                [(store, new.file.id, batch, json.dumps(new.attributes), new.file.bytes, _now()) for new in files],
            )
            self._index(store)

    def add_batch(self, store: str, files: Sequence[NewFile]) -> str:
        """As `add`, as one batch; returns the batch's id."""
        id = f"vsfb_{secrets.token_hex(12)}"
        with self._state.change() as db:
            db.execute("INSERT INTO file_batches (id, store, created_at) VALUES (?, ?, ?)", (id, store, _now()))
            self.add(store, files, id)
        return id

    def batch(self, store: str, id: str) -> dict[str, Any] | None:
        """A batch as the API shows it."""
        row = self._state.one("SELECT * FROM file_batches WHERE id = ? AND store = ?", (id, store))
        if row is None:
            return None
        counts = file_counts(self.files(store, id))
        done = "failed" if counts["total"] and counts["failed"] == counts["total"] else "completed"
        return {
            "id": id,
            "object": "vector_store.files_batch",
            "created_at": row["created_at"],
            "vector_store_id": store,
            "status": "cancelled" if row["cancelled"] else "in_progress" if counts["in_progress"] else done,
            "file_counts": counts,
        }

    def cancel_batch(self, store: str, id: str) -> None:
        """Leave out the files of a batch that are not indexed yet."""
        with self._state.change() as db:
            waiting = db.execute(
                "UPDATE vector_store_files SET status = 'cancelled' WHERE store = ? AND batch = ? AND status = 'in_progress'",
                (store, id),
            ).rowcount
            if waiting:
                db.execute("UPDATE file_batches SET cancelled = 1 WHERE id = ?", (id,))

    def set_attributes(self, store: str, id: str, attributes: Attributes) -> None:
        """In force with the next search; nothing is indexed anew."""
        with self._state.change() as db:
            values = (json.dumps(attributes), store, id)
            db.execute("UPDATE vector_store_files SET attributes = ? WHERE store = ? AND id = ?", values)

    def remove(self, store: str, id: str) -> bool:
        """Take a file out of a store. False when it is not in it."""
        with self._state.change() as db:
            if not db.execute("DELETE FROM vector_store_files WHERE store = ? AND id = ?", (store, id)).rowcount:
                return False
            self._index(store)
        return True

    def forget_file(self, id: str) -> None:
        """Take a file that was deleted out of every store."""
        for row in self._state.all("SELECT store FROM vector_store_files WHERE id = ?", (id,)):
            self.remove(row["store"], id)

    def indexed(self, job: Job) -> None:
        """Take over what a job has found out about the files; called as it ends."""
        if self.row(job.subject) is None:
            # Deleted meanwhile: nothing of it stays, nor comes back.
            shutil.rmtree(self.folder(job.subject).path, ignore_errors=True)
            return
        waiting = any(other.state == "queued" for other in self._jobs.of(KIND, job.subject) if other.id != job.id)
        known: dict[str, Any] = (job.result or {}).get("files", {})
        text = (job.error or {}).get("message", "the indexing was cancelled")
        with self._state.change() as db:
            for file in self.files(job.subject):
                if file.status != "in_progress":
                    continue
                error = known.get(file.id, "unseen") if job.state == "succeeded" else {"code": "server_error"}
                if error == "unseen" or (job.state != "succeeded" and waiting):
                    continue  # it came later, and has a job of its own
                values: tuple[Any, ...] = ("completed", None, None)
                if error is not None:
                    values = ("failed", error["code"], error.get("message", text))
                db.execute(
                    "UPDATE vector_store_files SET status = ?, error_code = ?, error_message = ?"
                    " WHERE store = ? AND id = ?",
                    (*values, job.subject, file.id),
                )

        for old in self._jobs.of(KIND, job.subject):
            # Their outcome is in the files' rows; only the last one's log may still be of use.
            if old.over and old.id != job.id:
                self._jobs.forget(old)

    def _index(self, store: str) -> None:
        """See to it that a job which starts from now on indexes the store. One that waits already will do."""
        if not any(job.state == "queued" for job in self._jobs.of(KIND, store)):
            self._jobs.submit(KIND, store, {}, "vsjob_")


def file_counts(files: Iterable[StoreFile]) -> dict[str, int]:
    counts = Counter(file.status for file in files)
    known = {name: counts[name] for name in ("in_progress", "completed", "failed", "cancelled")}
    return {**known, "total": sum(known.values())}


def expires_at(row: Row) -> int | None:
    """Unix time after which a store is no longer searched."""
    days = row["expires_after_days"]
    return None if days is None else int(row["last_active_at"]) + int(days) * DAY_S


def expired(row: Row) -> bool:
    moment = expires_at(row)
    return moment is not None and moment < _now()


def _now() -> int:
    return int(time.time())

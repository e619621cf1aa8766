"""What the server must not forget: files, vector stores, jobs, usage, in one SQLite file of the workspace.

Write-ahead logging lets `tunefork usage` read while the server writes, and a killed server leaves a whole file. Rows are
small; documents, indexes and adapters stay plain files beside it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import ArtifactError

Row = sqlite3.Row

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE usage (
        day TEXT, key TEXT, use_case TEXT, base_model TEXT,
        requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, usd REAL,
        PRIMARY KEY (day, key, use_case, base_model)
    );
    CREATE TABLE files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, filename TEXT, purpose TEXT, bytes INTEGER,
        sha256 TEXT, created_at INTEGER
    );
    CREATE INDEX files_by_content ON files (sha256);
    CREATE TABLE vector_stores (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, name TEXT, description TEXT, metadata TEXT,
        created_at INTEGER, last_active_at INTEGER, expires_after_days INTEGER
    );
    CREATE TABLE vector_store_files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, store TEXT NOT NULL REFERENCES vector_stores (id) ON DELETE CASCADE,
        id TEXT NOT NULL, batch TEXT, attributes TEXT, status TEXT, error_code TEXT, error_message TEXT, bytes INTEGER,
        created_at INTEGER, UNIQUE (store, id)
    );
    CREATE TABLE file_batches (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,
        store TEXT NOT NULL REFERENCES vector_stores (id) ON DELETE CASCADE, files TEXT, created_at INTEGER,
        cancelled INTEGER DEFAULT 0
    );
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
        spec TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER DEFAULT 0, pid INTEGER, born REAL,
        cancelling INTEGER DEFAULT 0, created_at INTEGER, started_at INTEGER, finished_at INTEGER, error TEXT,
        result TEXT
    );
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE TABLE job_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        at INTEGER, level TEXT, message TEXT
    );
    CREATE INDEX events_by_job ON job_events (job);
    """,
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, created_at INTEGER NOT NULL, response TEXT NOT NULL,
        input TEXT NOT NULL
    );
    CREATE INDEX responses_by_age ON responses (created_at)
    """,
)
"""Number n brings a file of schema version n to n + 1. One that was released is never changed."""


class State:
    """The open database. Thread-safe; every statement waits for the one before it, which takes microseconds."""

    def __init__(self, workspace: Path) -> None:
        """
        Raises:
            ArtifactError: the file is damaged, or was written by a newer Tunefork.
        """
        self.folder = workspace / "server"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "state.db"
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate(path)
        except sqlite3.DatabaseError as exc:
            self._db.close()
            raise ArtifactError(f"{path}: damaged ({exc}); restore it from a copy, or delete it to start anew") from exc
        except BaseException:
            self._db.close()
            raise

    def _migrate(self, path: Path) -> None:
        with self.change():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise ArtifactError(
                    f"{path}: has schema version {version}, this Tunefork knows {len(MIGRATIONS)}; upgrade Tunefork"
                )
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in script.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        with self._lock:
            row: Row | None = self._db.execute(sql, values).fetchone()
            return row

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of the block is stored, or nothing. Blocks of one thread nest into the outermost."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Twice is harmless."""
        with self._lock:
            self._db.close()

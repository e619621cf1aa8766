"""Long work beside the server: jobs in child processes, queued, watched, cancelled, and carried over a restart.

A child holds a lock file in its job's folder for as long as it lives, which the kernel frees however it ends. So a server
that starts after a crash can tell: a job whose lock is held is still being worked on and is watched on; one that left a
result is over; one that has neither was killed, and begins again where its own checkpoints let it, a few times.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from core.locks import forget_owner, owner_of
from core.workspace import Workspace
from serve.job import LANES, Event, Job, JobState, Lane
from serve.job_process import LOCK, Child, begin, environment
from serve.state import State
from serve.warm import AVAILABLE, IMPORTS, Warm

log = logging.getLogger("tunefork.serve")

ATTEMPTS = 3
STOP_WITHIN_S = 10.0
_POLL_S = 0.1

OnEnd = Callable[[Job], None]


class Jobs:
    """The jobs of a workspace. Thread-safe; a thread of its own starts and watches the children."""

    def __init__(self, state: State, workspace: Workspace, *, forks: bool = AVAILABLE) -> None:
        """
        Args:
            forks: keep a process a lane that has its imports done, once the lane has had a job, and fork jobs from it.
        """
        self._state = state
        self._workspace = workspace
        self._forks = forks
        self._warm: dict[Lane, Warm] = {}
        self._on_end: dict[str, OnEnd] = {}
        self._children: dict[str, Child] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        for row in state.all("SELECT * FROM jobs WHERE state = 'running'"):
            self._children[row["id"]] = Child(self.folder(row["id"]), None)
        self._sweep()
        self._thread = threading.Thread(target=self._watch, name="tunefork-jobs", daemon=True)

    def start(self, on_end: Mapping[str, OnEnd]) -> None:
        """Begin to work, on what an earlier server left too.

        Args:
            on_end: by kind, what is called for every job that ends, before anybody can see that it has.
        """
        self._on_end = dict(on_end)
        self._thread.start()

    def submit(
        self,
        kind: str,
        subject: str,
        spec: Mapping[str, Any],
        prefix: str,
        prepare: Callable[[Path], None] = lambda _: None,
    ) -> Job:
        """A new job, which starts as soon as its lane is free.

        Args:
            prepare: puts into the job's folder what it needs.
        """
        id = f"{prefix}{secrets.token_hex(12)}"
        folder = self.folder(id)
        folder.mkdir(parents=True)
        prepare(folder)
        write_json(folder / "spec.json", {"kind": kind, "job": id, "subject": subject, "spec": dict(spec)})
        with self._state.change() as db:
            db.execute(
                "INSERT INTO jobs (id, kind, subject, spec, state, created_at) VALUES (?, ?, ?, ?, 'queued', ?)",
                (id, kind, subject, json.dumps(dict(spec)), _now()),
            )
            self._say(id, "info", "the job is queued")
        self._wake.set()
        job = self.get(id)
        assert job is not None
        return job

    def get(self, id: str, kind: str | None = None) -> Job | None:
        row = self._state.one("SELECT * FROM jobs WHERE id = ?", (id,))
        return None if row is None or kind not in (None, row["kind"]) else Job.of(row)

    def of(self, kind: str, subject: str | None = None) -> list[Job]:
        """Jobs of a kind (and about a subject), newest first."""
        if subject is None:
            rows = self._state.all("SELECT * FROM jobs WHERE kind = ? ORDER BY seq DESC", (kind,))
        else:
            sql = "SELECT * FROM jobs WHERE kind = ? AND subject = ? ORDER BY seq DESC"
            rows = self._state.all(sql, (kind, subject))
        return [Job.of(row) for row in rows]

    def forget(self, job: Job) -> None:
        """Remove a job that is over, with its folder."""
        with self._state.change() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
        shutil.rmtree(self.folder(job.id), ignore_errors=True)

    def events(self, id: str) -> list[Event]:
        """What was said of a job, oldest first."""
        rows = self._state.all("SELECT * FROM job_events WHERE job = ? ORDER BY seq", (id,))
        return [Event(row["seq"], row["at"], row["level"], row["message"]) for row in rows]

    def cancel(self, id: str) -> Job | None:
        """Take a waiting job out of the queue, tell a running one to stop. One that is over stays as it is."""
        with self._state.change() as db:
            if db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND state = 'running'", (id,)).rowcount:
                self._say(id, "info", "the job is being cancelled")
        job = self.get(id)
        if job is not None and job.state == "queued":
            self._end(job, "cancelled", None, None, only_if="queued")
        self._wake.set()
        return self.get(id)

    def folder(self, id: str) -> Path:
        """Where a job's spec, log and result are."""
        return self._state.folder / "jobs" / id

    def close(self) -> None:
        """Stop the children. A job that has not ended is queued again, and goes on with the next server."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        for child in self._children.values():
            child.stop()
        until = time.monotonic() + STOP_WITHIN_S
        while any(child.alive() for child in self._children.values()) and time.monotonic() < until:
            time.sleep(0.05)
        for id, child in self._children.items():
            child.kill()
            if child.process is not None:
                child.process.wait()
            job = self.get(id)
            if job is not None and not job.over and not self._settled(job):
                with self._state.change() as db:
                    db.execute("UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE id = ?", (id,))
                    self._say(id, "info", "the server stopped; the job goes on with the next one")
        self._children.clear()
        for warm in self._warm.values():
            warm.close()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Exception:
                log.exception("the jobs' watcher failed; it goes on")
                time.sleep(1)
            loading = any(warm.state == "loading" for warm in self._warm.values())
            self._wake.wait(_POLL_S if self._children or loading else 5.0)
            self._wake.clear()

    def _step(self) -> None:
        for id, child in list(self._children.items()):
            job = self.get(id)
            if job is None or job.over:
                child.kill()
                if child.process is not None:
                    child.process.wait()
                self._children.pop(id)
            elif child.alive():
                if job.cancelling:
                    child.stop()
            else:
                if child.process is not None:
                    child.process.wait()
                if not self._settled(job):
                    self._killed(job, begun=child.process is not None or owner_of(child.folder / LOCK) is not None)
                # Only now: where that failed it is tried again, and the job does not stay running for ever.
                self._children.pop(id)
        busy = {LANES[job.kind] for id in self._children if (job := self.get(id)) is not None}
        for row in self._state.all("SELECT * FROM jobs WHERE state = 'queued' ORDER BY seq"):
            lane = LANES[row["kind"]]
            if lane not in busy:
                busy.add(lane)
                # At its imports: it is the job's turn as soon as they are done.
                if self._warmed(lane) != "loading":
                    self._start(Job.of(row))

    def _warmed(self, lane: Lane) -> str:
        """How the process stands that the lane's jobs are forked from. One that has ended is started anew; not so one that
        could not do its imports: the job itself says then what is wrong."""
        if not self._forks:
            return "failed"
        if lane not in self._warm or self._warm[lane].state == "gone":
            try:
                self._warm[lane] = Warm(IMPORTS[lane], environment(self._workspace))
            except OSError as exc:
                log.warning("no process for the imports of %s jobs: %s", lane, exc)
                return "failed"
        return self._warm[lane].state

    def _start(self, job: Job) -> None:
        with self._state.change() as db:
            if not db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = coalesce(started_at, ?)"
                " WHERE id = ? AND state = 'queued'",
                (_now(), job.id),
            ).rowcount:
                return
            self._say(job.id, "info", "the job has started" if job.attempts == 0 else "the job goes on")
        folder = self.folder(job.id)
        warm = self._warm.get(LANES[job.kind])
        try:
            child = begin(folder, self._command(folder), environment(self._workspace), warm)
        except OSError as exc:
            log.error("job %s could not be started: %s", job.id, exc)
            text = "the job's process could not be started; the server's log says why"
            self._end(job, "failed", {"code": "server_error", "message": text, "param": None}, None)
            return
        self._children[job.id] = child

    def _command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "serve.job_child", str(folder)]

    def _settled(self, job: Job) -> bool:
        """Take over the result that the child has left; False when there is none."""
        path = self.folder(job.id) / "result.json"
        if not path.exists():
            return False
        left = read_json(path)
        if job.cancelling and left["error"] is not None:
            self._end(job, "cancelled", None, None)
        else:
            self._end(job, "failed" if left["error"] else "succeeded", left["error"], left["result"])
        return True

    def _killed(self, job: Job, begun: bool) -> None:
        """Begin the job again, or give it up.

        Args:
            begun: False: its process was started by a server that was killed, and had not come to its work yet.
        """
        forget_owner(self.folder(job.id) / LOCK)
        if not begun and not job.cancelling:
            with self._state.change() as db:
                db.execute("UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE id = ?", (job.id,))
                self._say(job.id, "warn", "the server was killed as the job started; it starts again")
        elif job.cancelling:
            self._end(job, "cancelled", None, None)
        elif job.attempts >= ATTEMPTS:
            text = f"the job's process was killed {job.attempts} times without an error of its own (too little memory?)"
            self._end(job, "failed", {"code": "killed", "message": text, "param": None}, None)
        else:
            with self._state.change() as db:
                db.execute("UPDATE jobs SET state = 'queued' WHERE id = ?", (job.id,))
                self._say(job.id, "warn", "the job's process was killed; it begins again where it can")

    def _end(
        self,
        job: Job,
        state: JobState,
        error: dict[str, Any] | None,
        result: dict[str, Any] | None,
        only_if: str = "running",
    ) -> None:
        with self._state.change() as db:
            # After a crash of the server a job that it had queued again may turn out to have ended.
            done = db.execute(
                "UPDATE jobs SET state = ?, error = ?, result = ?, finished_at = ? WHERE id = ? AND state IN (?, 'queued')",
                (state, _json(error), _json(result), _now(), job.id, only_if),
            ).rowcount
            if not done:
                return
            said = {"succeeded": "the job has succeeded", "cancelled": "the job was cancelled"}
            self._say(job.id, "error" if error else "info", error["message"] if error else said[state])
            ended = self.get(job.id)
            if ended is not None and job.kind in self._on_end:
                self._on_end[job.kind](ended)

    def _sweep(self) -> None:
        """Remove folders of jobs that a killed server was about to queue, or to forget."""
        known = {row["id"] for row in self._state.all("SELECT id FROM jobs")}
        for folder in (self._state.folder / "jobs").glob("*"):
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _say(self, id: str, level: str, message: str) -> None:
        with self._state.change() as db:
            values = (id, _now(), level, message)
            db.execute("INSERT INTO job_events (job, at, level, message) VALUES (?, ?, ?, ?)", values)


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _now() -> int:
    return int(time.time())

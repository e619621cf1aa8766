"""What a server makes of what a killed one left half-done, step by step; tests/chaos kills real ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core.files import write_json
from core.locks import hold
from core.workspace import Workspace
from serve.job import Job
from serve.jobs import Jobs
from serve.services import Options, Services
from serve.state import State
from serve.stores import NewFile
from tests.serve.conftest import wait_until
from tests.serve.test_fine_tuning import Sleeping, up


@contextmanager
def services(workspace: Workspace) -> Iterator[Services]:
    opened = Services(workspace, Options())
    opened.open()
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is started."""
    monkeypatch.setattr(Jobs, "_start", lambda _self, _job: None)


def stored(workspace: Workspace) -> tuple[str, str, str]:
    """A store, the file in it that waits for its indexing, and the job that will do it."""
    with services(workspace) as before:
        file = before.files.add(io.BytesIO(b"# Soup"), "a.md", "assistants")
        store = before.stores.create("s", None, None, None, [NewFile(file, {})])
        (job,) = before.jobs.of("vector_store")
        return store, file.id, job.id


@pytest.mark.usefixtures("idle")
def test_outcome_of_a_job_that_ended_without_a_server_is_taken_over(workspace: Workspace) -> None:
    store, file, job = stored(workspace)
    with services(workspace) as dead:
        write_json(dead.jobs.folder(job) / "result.json", {"error": None, "result": {"files": {file: None}}})
        with dead.state.change() as db:
            db.execute("UPDATE jobs SET state = 'running'")
    with services(workspace) as again:
        wait_until(lambda: again.stores.files(store)[0].status == "completed", timeout_s=60)


@pytest.mark.usefixtures("idle")
def test_file_whose_deletion_was_cut_short_leaves_its_stores(workspace: Workspace) -> None:
    store, file, _ = stored(workspace)
    with services(workspace) as dead:
        assert dead.files.delete(file)  # killed here, before the stores heard of it
    with services(workspace) as again:
        assert again.state.all("SELECT * FROM vector_store_files") == []
        assert [job.state for job in again.jobs.of("vector_store", store)] == ["queued"]


@pytest.mark.usefixtures("idle")
def test_store_whose_deletion_was_cut_short_leaves_nothing_on_the_disk(workspace: Workspace) -> None:
    store, _, _ = stored(workspace)
    with services(workspace) as dead:
        folder = dead.stores.folder(store).path
        folder.mkdir(parents=True)
        (folder / "text").write_text("secret")
        with dead.state.change() as db:
            db.execute("DELETE FROM vector_stores")
    with services(workspace) as again:
        assert not folder.exists()
        wait_until(lambda: not again.stores.rows())


@pytest.mark.usefixtures("idle")
def test_folder_of_a_job_that_was_never_queued_is_removed(workspace: Workspace) -> None:
    _, _, job = stored(workspace)
    with services(workspace) as again:
        stray = again.jobs.folder("vsjob_stray")
        stray.mkdir()
    with services(workspace) as again:
        assert not stray.exists()
        assert again.jobs.folder(job).is_dir()


@pytest.fixture
def state(workspace: Workspace) -> Iterator[State]:
    state = State(workspace.path)
    yield state
    state.close()


def running_job(state: State, attempts: int) -> Job:
    """A job that a killed server had started."""
    with state.change() as db:
        db.execute(
            "INSERT INTO jobs (id, kind, subject, spec, state, attempts, created_at)"
            " VALUES ('job-1', 'advise', 'faq', '{}', 'running', ?, 0)",
            (attempts,),
        )
    folder = state.folder / "jobs" / "job-1"
    folder.mkdir(parents=True)
    row = state.one("SELECT * FROM jobs")
    assert row is not None
    return Job.of(row)


def test_job_that_never_came_to_its_work_is_not_charged_for_its_servers_deaths(
    state: State, workspace: Workspace
) -> None:
    job = running_job(state, attempts=3)
    jobs = Sleeping(state, workspace)
    jobs.start({})
    try:
        up(jobs, job)
        again = jobs.get(job.id)
        assert again is not None
        assert (again.state, again.attempts) == ("running", 3)
    finally:
        jobs.close()


def test_job_whose_end_cannot_be_taken_over_at_first_is_not_running_for_ever(
    state: State, workspace: Workspace
) -> None:
    job = running_job(state, attempts=1)
    write_json(state.folder / "jobs" / job.id / "result.json", {"error": None, "result": {}})
    told: list[Job] = []

    def once_broken(ended: Job) -> None:
        told.append(ended)
        if len(told) == 1:
            raise OSError("no space left on device")

    jobs = Sleeping(state, workspace)
    jobs.start({"advise": once_broken})
    try:
        wait_until(lambda: state_of(jobs) == "succeeded", timeout_s=60)
    finally:
        jobs.close()
    assert len(told) == 2


def state_of(jobs: Jobs) -> str:
    job = jobs.get("job-1")
    assert job is not None
    return job.state


def test_no_process_is_signalled_for_an_id_that_a_dead_one_left(
    state: State, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running_job(state, attempts=1)
    folder = state.folder / "jobs" / job.id
    with hold(folder / ".lock", "the job"):
        pass
    (folder / ".lock.owner").write_text(str(os.getpid()))
    signalled: list[Any] = []
    monkeypatch.setattr("serve.job_process.os.killpg", lambda *given: signalled.append(given))
    jobs = Sleeping(state, workspace)
    kill: Callable[[], None] = jobs._children[job.id].kill
    kill()
    assert signalled == []

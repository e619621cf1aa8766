"""Jobs' processes that are forked from one that has its imports done: as robust as those that are started anew."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.workspace import Workspace
from serve import warm, warm_child
from serve.job import Job
from serve.jobs import Jobs
from serve.state import State
from tests.serve.conftest import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")


@pytest.fixture
def state(workspace: Workspace) -> Iterator[State]:
    state = State(workspace.path)
    yield state
    state.close()


@pytest.fixture
def jobs(state: State, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(warm.IMPORTS, "ingest", ("tests.serve.waiting_job",))
    jobs = Jobs(state, workspace, forks=True)
    jobs.start({})
    yield jobs
    jobs.close()


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file that jobs wait for."""
    return tmp_path / "go"


def _submit(jobs: Jobs, go: Path) -> Job:
    return jobs.submit("vector_store", str(go), {}, "job-")


def _at_work(jobs: Jobs, job: Job) -> int:
    wait_until(lambda: (jobs.folder(job.id) / "up").exists())
    return int((jobs.folder(job.id) / ".lock.owner").read_text())


def _ended(jobs: Jobs, job: Job) -> Job:
    def over() -> bool:
        found = jobs.get(job.id)
        return found is not None and found.over

    wait_until(over)
    found = jobs.get(job.id)
    assert found is not None
    return found


def _gone(pid: int) -> bool:
    """Whether the process has ended; one that only nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_jobs_of_a_lane_come_from_one_process(jobs: Jobs, go: Path) -> None:
    go.touch()
    results = []
    for _ in range(2):
        ended = _ended(jobs, _submit(jobs, go))
        assert ended.state == "succeeded"
        assert ended.result is not None
        assert "at work" in (jobs.folder(ended.id) / "log.txt").read_text()
        results.append(ended.result)
    assert [result["parent"] for result in results] == [jobs._warm["ingest"].pid] * 2
    # A session of its own each, to be stopped with all that it starts; and chance of its own.
    assert [result["session"] for result in results] == [result["pid"] for result in results]
    assert len({number for result in results for number in result["drawn"]}) == 4


def test_no_process_is_kept_where_no_job_was_asked_for(jobs: Jobs) -> None:
    jobs._step()
    assert jobs._warm == {}


def test_job_goes_on_when_the_process_it_came_from_is_killed_and_the_next_has_a_new_one(jobs: Jobs, go: Path) -> None:
    job = _submit(jobs, go)
    _at_work(jobs, job)
    first = jobs._warm["ingest"].pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _gone(first))
    go.touch()
    assert _ended(jobs, job).attempts == 1
    after = _ended(jobs, _submit(jobs, go))
    assert after.result is not None
    assert after.result["parent"] == jobs._warm["ingest"].pid != first


def test_forked_job_is_cancelled(jobs: Jobs, go: Path) -> None:
    job = _submit(jobs, go)
    pid = _at_work(jobs, job)
    jobs.cancel(job.id)
    assert _ended(jobs, job).state == "cancelled"
    assert _gone(pid)


def test_forked_job_that_is_killed_begins_again(jobs: Jobs, go: Path) -> None:
    job = _submit(jobs, go)
    pid = _at_work(jobs, job)
    (jobs.folder(job.id) / "up").unlink()
    os.kill(pid, signal.SIGKILL)
    assert _at_work(jobs, job) != pid
    go.touch()
    ended = _ended(jobs, job)
    assert (ended.state, ended.attempts) == ("succeeded", 2)


def test_end_of_the_server_ends_the_process_and_puts_its_job_back(jobs: Jobs, go: Path) -> None:
    job = _submit(jobs, go)
    pid, kept = _at_work(jobs, job), jobs._warm["ingest"].pid
    jobs.close()
    assert _gone(pid)
    assert _gone(kept)
    found = jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempts) == ("queued", 0)


def test_imports_that_fail_leave_the_job_a_process_of_its_own(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, go: Path
) -> None:
    monkeypatch.setitem(warm.IMPORTS, "ingest", ("no_such_module",))
    for _ in range(2):
        # Of a store that does not exist: there is nothing to do.
        ended = _ended(jobs, _submit(jobs, go))
        assert (ended.state, ended.result) == ("succeeded", {"files": {}})
    assert jobs._warm["ingest"].state == "failed"


SERVER = """
import sys, time
from pathlib import Path
from core.workspace import Workspace
from serve import warm
from serve.jobs import Jobs
from serve.state import State
warm.IMPORTS["ingest"] = (sys.argv[3],)
workspace = Workspace(Path(sys.argv[1]))
jobs = Jobs(State(workspace.path), workspace, forks=True)
jobs.start({})
job = jobs.submit("vector_store", sys.argv[2], {}, "job-")
while "ingest" not in jobs._warm:
    time.sleep(0.01)
print(jobs._warm["ingest"].pid, jobs.folder(job.id), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("loading", [True, False])
def test_killed_server_leaves_no_process_but_its_job(
    workspace: Workspace, state: State, go: Path, loading: bool, tmp_path: Path
) -> None:
    (tmp_path / "never_done.py").write_text("import time; time.sleep(600)")
    module = "never_done" if loading else "tests.serve.waiting_job"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-c", SERVER, str(workspace.path), str(go), module]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as server:
        assert server.stdout is not None
        kept, _, folder = server.stdout.readline().strip().partition(" ")
        if not loading:
            wait_until(lambda: (Path(folder) / "up").exists())
        server.kill()
    wait_until(lambda: _gone(int(kept)))
    if not loading:
        # As before: the job itself is worked on, and the next server watches on.
        go.touch()
        wait_until(lambda: (Path(folder) / "result.json").exists())
        again = Jobs(state, workspace, forks=True)
        again.start({})
        try:
            job = again.get(Path(folder).name)
            assert job is not None
            assert _ended(again, job).state == "succeeded"
        finally:
            again.close()


def test_process_that_is_not_needed_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_child, "IDLE_S", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        assert warm_child._asked(theirs) is None
        assert (ours.recv(16), ours.recv(16)) == (warm.READY, b"")

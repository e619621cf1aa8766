"""The server is killed in the middle of its work: nothing that was acknowledged is lost, and no hand is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core.workspace import Workspace
from tests.conftest import ROOT
from tests.serve.conftest import wait_until
from tests.serve.test_fine_tuning import BASE, rows

SERVER = """
from core.workspace import open_workspace
from serve.catalog import Catalog
from serve.server import listen, run_server
from tests.serve.conftest import EchoEngine

said = lambda url, models: print(url, flush=True)
run_server(Catalog(open_workspace(), EchoEngine), listen("127.0.0.1", 0), on_ready=said, running=8, waiting=8)
"""


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process over TUNEFORK_HOME with scripted engines, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url, process.stderr.read()
        yield process, url
    finally:
        process.kill()
        process.communicate()


@contextmanager
def client_of(url: str) -> Iterator[openai.OpenAI]:
    options: Any = {"api_key": "none", "max_retries": 0, "timeout": 30}
    with openai.OpenAI(base_url=f"{url}/v1", _strict_response_validation=True, **options) as client:
        yield client


def owner(home: Path, job: str) -> int:
    return int((home / "server" / "jobs" / job / ".lock.owner").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder", "encoder_folder")
def test_kill_9_loses_no_file_no_store_and_no_job(home: Path, workspace: Workspace) -> None:
    with serving() as (server, url), client_of(url) as client:
        kept = client.files.create(file=("rows.jsonl", rows(24)), purpose="fine-tune")
        document = client.files.create(file=("a.md", b"# Soup\n\nThe cafe serves soup."), purpose="assistants")
        job = client.fine_tuning.jobs.create(
            model=BASE, training_file=kept.id, hyperparameters={"n_epochs": 1, "batch_size": 4}
        )
        wait_until(lambda: (home / "server" / "jobs" / job.id / ".lock.owner").exists(), timeout_s=60)
        store = client.vector_stores.create(file_ids=[document.id])
        server.kill()
        server.wait()
    # The job's process works on, without a server.
    at_work = owner(home, job.id)
    with serving() as (server, url), client_of(url) as client:
        assert client.files.content(kept.id).read() == rows(24)
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
        assert owner(home, job.id) == at_work
        # Now both: the server, and the job's own process.
        server.kill()
        server.wait()
        os.kill(at_work, signal.SIGKILL)
    with serving() as (server, url), client_of(url) as client:
        wait_until(lambda: client.vector_stores.retrieve(store.id).status == "completed", timeout_s=150)
        assert client.vector_stores.search(store.id, query="soup").data[0].file_id == document.id
        wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded", timeout_s=200)
        assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model in {model.id for model in client.models.list()}
        events = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        assert any("begins again" in event for event in events)
        assert httpx.get(f"{url}/health").status_code == 200

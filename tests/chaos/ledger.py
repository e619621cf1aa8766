"""What the server has acknowledged, and whether it still knows."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from core.files import read_own_jsonl
from core.request_log import feedback_path
from core.workspace import Workspace
from serve.files import Files
from serve.state import State

USE_CASE = "faq"


@dataclass
class Document:
    """A document that was uploaded: `word` stands in it and in no other."""

    word: str
    text: str


@dataclass
class Ledger:
    """Thread-safe as far as the load uses it: each object is entered once, by the thread that made it."""

    documents: dict[str, Document] = field(default_factory=dict)
    """By file id."""
    rows: dict[str, bytes] = field(default_factory=dict)
    """Training files."""
    deleted: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    """Files whose deletion was asked for, and not answered."""
    stores: list[str] = field(default_factory=list)
    batches: list[tuple[str, str]] = field(default_factory=list)
    """(store, batch)"""
    asked: set[tuple[str, str]] = field(default_factory=set)
    """(store, file) that a request named, whatever came of it."""
    members: set[tuple[str, str]] = field(default_factory=set)
    """(store, file) that was acknowledged."""
    indexed: set[tuple[str, str]] = field(default_factory=set)
    """Members that the server has called completed."""
    jobs: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    """Of jobs that the server has called succeeded."""
    responses: list[str] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)
    """Request ids."""
    chats: int = 0
    broken: list[str] = field(default_factory=list)
    """What must not have happened."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, wrong: str) -> None:
        with self.lock:
            self.broken.append(wrong)

    def gone(self) -> set[str]:
        """Files that are, or may be, deleted."""
        # In the order in which a deletion goes through them.
        return set(self.doubtful) | set(self.deleted)

    def counts(self) -> str:
        return (
            f"{self.chats} chats, {len(self.documents) + len(self.rows)} files ({len(self.deleted)} deleted),"
            f" {len(self.stores)} stores, {len(self.batches)} batches, {len(self.indexed)}/{len(self.members)} indexed,"
            f" {len(self.models)}/{len(self.jobs)} jobs succeeded, {len(self.responses)} responses,"
            f" {len(self.feedback)} judgements"
        )


@contextmanager
def client_of(url: str) -> Iterator[openai.OpenAI]:
    options: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 120}
    with openai.OpenAI(base_url=url, _strict_response_validation=True, **options) as client:
        yield client


def check(ledger: Ledger, url: str, rng: random.Random, *, whole: bool = False) -> None:
    """Ask a server that has just started for everything that was acknowledged (of contents: some, or the `whole`).

    What is wrong is added to `ledger.broken`.
    """
    with client_of(url) as client:
        # The load goes on meanwhile: what is asked about is written down first.
        files, deleted = [*ledger.documents, *ledger.rows], set(ledger.deleted)
        there = {file.id for file in client.files.list(limit=10_000)}
        gone = ledger.gone()
        kept = [id for id in files if id not in gone]
        for id in set(kept) - there:
            ledger.say(f"the file {id} was acknowledged, and is lost")
        for id in deleted & there:
            ledger.say(f"the file {id} was deleted, and is back")
        for id in kept if whole else rng.sample(kept, min(5, len(kept))):
            _compare(ledger, client, id)
        for store in list(ledger.stores):
            _check_store(ledger, client, store)
        for store, batch in list(ledger.batches):
            client.vector_stores.file_batches.retrieve(batch, vector_store_id=store)
        for job in list(ledger.jobs):
            _check_job(ledger, client, job)
        listed = {model.id for model in client.models.list()}
        for job, name in ledger.models.items():
            if name not in listed:
                ledger.say(f"the model {name} of {job} is lost")
        for id in ledger.responses if whole else rng.sample(ledger.responses, min(5, len(ledger.responses))):
            client.responses.retrieve(id)


def _compare(ledger: Ledger, client: openai.OpenAI, id: str) -> None:
    wanted = ledger.rows[id] if id in ledger.rows else ledger.documents[id].text.encode()
    try:
        same = client.files.content(id).read() == wanted
    except openai.NotFoundError:
        same = id in ledger.gone()
    if not same:
        ledger.say(f"the file {id} holds other bytes than were uploaded")


def _check_store(ledger: Ledger, client: openai.OpenAI, store: str) -> None:
    members = list(ledger.members)
    states = {file.id: file for file in client.vector_stores.files.list(store, limit=100)}
    gone = ledger.gone()
    for own, id in members:
        if own != store or id in gone:
            continue
        if id not in states:
            ledger.say(f"the file {id} is lost from the store {store}")
        elif states[id].status == "failed":
            ledger.say(f"the file {id} of the store {store} failed: {states[id].last_error}")
        elif states[id].status == "completed":
            ledger.indexed.add((store, id))
        elif (store, id) in ledger.indexed:
            ledger.say(f"the file {id} of the store {store} was completed, and is {states[id].status} now")


def _check_job(ledger: Ledger, client: openai.OpenAI, id: str) -> None:
    job = client.fine_tuning.jobs.retrieve(id)
    if job.status == "succeeded":
        assert job.fine_tuned_model is not None
        ledger.models[id] = job.fine_tuned_model
    elif job.status not in ("queued", "running"):
        ledger.say(f"the job {id} is {job.status}: {job.error}")
    elif id in ledger.models:
        ledger.say(f"the job {id} had succeeded, and is {job.status} now")


def settled(url: str) -> bool:
    """Whether nothing is under way any more."""
    with client_of(url) as client:
        stores = {store.status for store in client.vector_stores.list(limit=100)}
        jobs = {job.status for job in client.fine_tuning.jobs.list(limit=100)}
    return stores <= {"completed"} and not {"queued", "running"} & jobs


def check_indexes(ledger: Ledger, url: str) -> None:
    """Every document that belongs to a store is found there, whole; no other is."""
    with client_of(url) as client:
        for store, id in sorted(ledger.members):
            document = ledger.documents[id]
            hits = [hit.file_id for hit in client.vector_stores.search(store, query=document.word, max_num_results=50)]
            known = {own for of, own in ledger.asked if of == store}
            for stray in set(hits) - known:
                ledger.say(f"the store {store} finds {stray}, which nobody put there")
            if id in ledger.deleted:
                if id in hits:
                    ledger.say(f"the store {store} finds the deleted file {id}")
                continue
            if id in ledger.doubtful:
                continue  # whether or not it was deleted, it may be found
            if (store, id) not in ledger.indexed:
                ledger.say(f"the file {id} never was indexed in the store {store}")
                continue
            if id not in hits:
                ledger.say(f"the store {store} does not find {id} by its own word")
            pieces = client.vector_stores.files.content(id, vector_store_id=store)
            text = "".join(piece.text or "" for piece in pieces)
            if " ".join(text.split()) != " ".join(document.text.split()):
                ledger.say(f"the store {store} holds {len(text)} of the {len(document.text)} characters of {id}")


def check_disk(ledger: Ledger, home: Path) -> None:
    """What lies in the workspace of a stopped server is what its state names, and whole."""
    workspace = Workspace(home)
    state = State(home)
    try:
        for file in Files(state).all():
            digest = hashlib.sha256(Files(state).path(file).read_bytes()).hexdigest()
            if digest != file.sha256:
                ledger.say(f"the bytes of {file.id} are damaged")
        jobs = {row["id"] for row in state.all("SELECT id FROM jobs")}
        stores = {row["id"] for row in state.all("SELECT id FROM vector_stores")}
        open_jobs = [row["id"] for row in state.all("SELECT id FROM jobs WHERE state IN ('queued', 'running')")]
    finally:
        state.close()
    if open_jobs:
        ledger.say(f"jobs that never ended: {open_jobs}")
    for folder, known in (("jobs", jobs), ("vector_stores", stores)):
        stray = [path.name for path in (home / "server" / folder).glob("*") if path.name not in known]
        if stray:
            ledger.say(f"server/{folder} holds what nobody knows: {stray}")
    for pattern in ("server/vector_stores/*/index/.v*.tmp", "use_cases/*/adapters/.v*.tmp", "use_cases/.*"):
        left = [str(path.relative_to(home)) for path in home.glob(pattern)]
        if left:
            ledger.say(f"left behind: {left}")
    said = {row["request_id"] for row in read_own_jsonl(feedback_path(workspace.use_case(USE_CASE)))}
    for request in set(ledger.feedback) - said:
        ledger.say(f"the judgement on {request} is lost")
    for name in ledger.models.values():
        _check_adapter(ledger, workspace, name)


def _check_adapter(ledger: Ledger, workspace: Workspace, name: str) -> None:
    from safetensors import safe_open

    from core.models import local_folder
    from tuning.adapters import check_base

    folder = workspace.use_case(name)
    version = folder.adapters.active()
    if version is None or folder.adapters.all() != [version.name]:
        ledger.say(f"the model {name} has no adapter in force, or more than one")
        return
    base = folder.settings().base_model
    check_base(version, base, local_folder(base, workspace.models))
    with safe_open(version / "adapter_model.safetensors", "pt") as weights:
        if not list(weights.keys()):
            ledger.say(f"the adapter of {name} is empty")

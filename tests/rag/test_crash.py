"""kill -9 at every step of an ingest: what is served stays whole, and the next run ends where an unbroken one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.jobs import state
from core.workspace import UseCaseFolder, Workspace
from rag.passages import Passages
from rag.verify import verify
from tests.rag.conftest import write_corpus

WINDOW = 8

FORKING = """
import json, os, signal, sys, time
from importlib import import_module
from pathlib import Path

import bm25s, chromadb.api.rust, chromadb_rust_bindings, Stemmer
import llama_index.vector_stores.chroma
import rag.ingest as ingest_module
import rag.build, rag.nodes, rag.store
from core.workspace import Workspace
from rag.about import guess
from rag.embedding import load_encoder

rag.build.WINDOW = int(sys.argv[1])
# Loaded once; each ingest runs in a fork of this process, which has no threads yet.
load_encoder("all-minilm-l6-v2", Path(sys.argv[2])).passages(["warm"])
guess("enough of a text to load what tells languages apart")

def die_at(point, nth, after):
    module, _, names = point.partition(":")
    owner = import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(*args, **kwargs)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    setattr(owner, name, dying)

def run(order, out):
    if order.get("point"):
        die_at(order["point"], order["nth"], order["after"])
    workspace = Workspace(Path(order["home"]))
    paths = [Path(path) for path in order["paths"]]
    folder, settings = workspace.declare("docs", {"docs": tuple(paths)})
    report = ingest_module.report_json(ingest_module.ingest(folder, settings, workspace, paths))
    os.write(out, json.dumps(report).encode())

for line in sys.stdin:
    order = json.loads(line)
    end, out = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        code = 1
        try:
            run(order, out)
            code = 0
        finally:
            os._exit(code)
    os.close(out)
    if order.get("after_s") is not None:
        time.sleep(order["after_s"])
        os.kill(child, signal.SIGKILL)
    report = b""
    while piece := os.read(end, 65536):
        report += piece
    os.close(end)
    _, status = os.waitpid(child, 0)
    answer = {"code": os.waitstatus_to_exitcode(status), "report": json.loads(report) if report else None}
    print(json.dumps(answer), flush=True)
"""

OLD = {f"d{i}": (f"Title {i}", f"The old text of document {i} tells of pump {i}.") for i in range(30)}
NEW = {
    **{id: row for id, row in OLD.items() if int(id[1:]) % 3},
    **{f"d{i}": (f"Title {i}", f"The new text of document {i} tells of valve {i}.") for i in range(0, 30, 6)},
    **{f"n{i}": (f"Added {i}", f"An added text of number {i}.") for i in range(20)},
}
"""Of the old documents a third is gone or changed; others are new."""

Ingest = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Iterator[Ingest]:
    """`ingest(home, corpus, **where it dies)` in a process of its own; gives its exit code and report."""
    folder = tmp_path_factory.mktemp("forking")
    script = folder / "forking.py"
    script.write_text(FORKING)
    root = str(Path(__file__).parents[2])
    errors = (folder / "stderr").open("w")
    child = subprocess.Popen(
        [sys.executable, str(script), str(WINDOW), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )

    def run(home: Path, *paths: Path, **where: Any) -> dict[str, Any]:
        assert child.stdin is not None
        assert child.stdout is not None
        order = {"home": str(home), "paths": [str(path) for path in paths], **where}
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()
        line = child.stdout.readline()
        assert line, (folder / "stderr").read_text()
        answer: dict[str, Any] = json.loads(line)
        return answer

    yield run
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    child.stdout.close()
    child.wait()
    errors.close()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, ingest: Ingest) -> tuple[Path, Path]:
    """Folder with the corpora and a home that has the old one indexed; home of an unbroken run over the new one."""
    folder = tmp_path_factory.mktemp("homes")
    corpus = write_corpus(folder / "corpus.jsonl", OLD)
    assert ingest(folder / "old", corpus)["code"] == 0
    write_corpus(corpus, NEW)
    assert ingest(folder / "unbroken", corpus)["code"] == 0
    return folder, folder / "unbroken"


def served(folder: UseCaseFolder) -> dict[str, str]:
    version = folder.index.active()
    assert version is not None
    passages = Passages(version)
    texts = {entry.id: passages.row(entry.first)["text"] for entry in passages.entries}
    passages.close()
    return texts


def texts(rows: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {id: text for id, (_, text) in rows.items()}


STEPS = [
    ("rag.store:create_store", 1, True),
    ("rag.build:cut", 20, False),
    ("rag.vectors:VectorWriter.append", 5, True),
    ("llama_index.vector_stores.chroma:ChromaVectorStore.add", 2, False),
    ("llama_index.vector_stores.chroma:ChromaVectorStore.add", 5, True),
    ("rag.build:build_lexical", 1, True),
    ("rag.build:save_origin", 1, True),
    ("rag.store:scrub", 1, False),
    ("core.workspace:Versions.activate", 1, False),
    ("core.workspace:Versions.activate", 1, True),
    ("rag.ingest:_drop_old", 1, True),
]


@pytest.mark.slow
def test_after_a_kill_at_any_step_the_index_is_whole_and_the_next_ingest_ends_as_an_unbroken_one(
    tmp_path: Path, ingest: Ingest, homes: tuple[Path, Path], encoder_folder: Path
) -> None:
    folder, unbroken = homes
    expected = UseCaseFolder(unbroken / "use_cases" / "docs").index.active()
    assert expected is not None
    kills: list[dict[str, Any]] = [{"point": point, "nth": nth, "after": after} for point, nth, after in STEPS]
    kills += [{"after_s": seconds} for seconds in (0.2,)]
    for number, kill in enumerate(kills):
        home = tmp_path / f"home{number}"
        shutil.copytree(folder / "old", home)
        workspace = Workspace(home)
        use_case = UseCaseFolder(home / "use_cases" / "docs")
        died = ingest(home, folder / "corpus.jsonl", **kill)
        if "point" in kill:
            assert died["code"] == -signal.SIGKILL, kill
        assert served(use_case) in (texts(OLD), texts(NEW)), kill
        again = ingest(home, folder / "corpus.jsonl")
        assert again["code"] == 0, kill
        assert (again["report"]["documents"], again["report"]["passages"]) == (len(NEW), len(NEW)), kill
        version = use_case.index.active()
        assert version is not None
        for name in ("passages.jsonl", "documents.jsonl", "keys"):
            assert (version / name).read_bytes() == (expected / name).read_bytes(), (kill, name)
        found = verify(use_case, use_case.settings(), workspace)
        assert found.sound, (kill, found)
        assert use_case.index.all() == [version.name], kill
        assert not list(use_case.index.folder.glob(".v*.tmp")), kill
        assert not (use_case.index.folder / ".journal").exists(), kill
        assert all(state(run) in ("done", "killed") for run in use_case.runs()), kill


def test_vectors_computed_before_a_kill_are_not_computed_again(
    tmp_path: Path, ingest: Ingest, homes: tuple[Path, Path]
) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", {f"x{i}": ("T", f"Text number {i} of many.") for i in range(60)})
    # Journal and version each get a window's vectors: after six appends three windows are in the journal.
    died = ingest(tmp_path / "home", corpus, point="rag.vectors:VectorWriter.append", nth=6, after=False)
    assert died["code"] == -signal.SIGKILL
    report = ingest(tmp_path / "home", corpus)["report"]
    assert (report["embedded"], report["reused"]) == (60 - 3 * WINDOW, 3 * WINDOW)


def test_a_document_deleted_before_a_kill_is_off_the_disk_after_the_next_ingest(
    tmp_path: Path, ingest: Ingest, homes: tuple[Path, Path]
) -> None:
    secret = write_corpus(tmp_path / "secret.jsonl", {"s": ("S", "The word is xylophonist.")})
    other = write_corpus(tmp_path / "other.jsonl", OLD)
    home = tmp_path / "home"
    assert ingest(home, other, secret)["code"] == 0
    write_corpus(secret, {"s": ("S", "The word is gone.")})
    assert ingest(home, other, secret, point="rag.ingest:_drop_old", nth=1, after=False)["code"] == -signal.SIGKILL
    assert served(UseCaseFolder(home / "use_cases" / "docs"))["s"] == "The word is gone."
    assert ingest(home, other, secret)["code"] == 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if b"xylophonist" in path.read_bytes()]

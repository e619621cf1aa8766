"""An index whose collections are at a Chroma server: the Rust server of `chroma run`, on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.cli import main
from core.errors import EngineUnavailable
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.chroma_server import _client
from rag.ingest import ingest
from rag.open import open_retriever
from rag.verify import verify
from tests.rag.conftest import PASSAGES, write_corpus


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, reserved_port: int) -> Iterator[str]:
    """Its URL."""
    folder, port = tmp_path_factory.mktemp("server"), reserved_port
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    child = subprocess.Popen(
        [*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            if httpx.get(f"{url}/api/v2/heartbeat", trust_env=False).is_success:
                break
        except httpx.TransportError:
            assert child.poll() is None, "the Chroma server died"
            time.sleep(0.1)
    yield url
    child.terminate()
    child.wait()


def collections(url: str) -> list[str]:
    return [collection.name for collection in _client(url).list_collections()]


Served = tuple[UseCaseFolder, UseCase, Workspace, Path]


@pytest.fixture
def served(server: str, workspace: Workspace, tmp_path: Path, encoder_folder: Path) -> Iterator[Served]:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    folder, settings = workspace.declare("served", {"docs": (corpus,), "store": server})
    ingest(folder, settings, workspace, [corpus])
    yield folder, settings, workspace, corpus
    for name in collections(server):
        _client(server).delete_collection(name)


def test_an_index_at_a_server_is_searched_verified_and_shared(served: Served, server: str) -> None:
    folder, settings, workspace, _ = served
    version = folder.index.active()
    assert version is not None
    assert not list(version.glob("chroma-*"))
    with open_retriever(folder, settings, workspace) as first, open_retriever(folder, settings, workspace) as second:
        for retriever in (first, second):
            (sources,) = retriever.search(["Who was first on the moon?"], 1)
            assert sources[0].document_id == "moon"
    assert verify(folder, settings, workspace).sound
    assert json.loads((version / "chroma.json").read_text())["url"] == server


def test_a_new_version_replaces_the_collection_when_its_last_reader_is_gone(served: Served, server: str) -> None:
    folder, settings, workspace, corpus = served
    (old,) = collections(server)
    with open_retriever(folder, settings, workspace) as retriever:
        write_corpus(corpus, {**PASSAGES, "tea": ("Tea", "Black tea is steeped in boiling water.")})
        report = ingest(folder, settings, workspace, [corpus])
        assert (report.embedded, report.reused) == (1, 4)
        assert len(collections(server)) == 2
        assert retriever.search(["green tea"], 1)[0][0].text == PASSAGES["tea"][1]
    (new,) = collections(server)
    assert new != old
    assert folder.index.all() == [report.version]


def test_what_a_killed_ingest_left_at_the_server_is_swept(
    served: Served, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings, workspace, corpus = served
    (kept,) = collections(server)
    write_corpus(corpus, {"tea": ("Tea", "Another tea.")})

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("rag.build.save_origin", die)
    with pytest.raises(Killed):
        ingest(folder, settings, workspace, [corpus])
    assert len(collections(server)) == 2
    assert kept in collections(server)
    monkeypatch.undo()
    ingest(folder, settings, workspace, [corpus])
    (only,) = collections(server)
    assert only != kept


def test_a_change_of_the_store_moves_the_index_and_embeds_nothing(served: Served, server: str) -> None:
    folder, settings, workspace, corpus = served
    report = ingest(folder, settings.model_copy(update={"store": None}), workspace, [corpus])
    assert (report.changed, report.embedded, report.reused) == (True, 0, 5)
    assert collections(server) == []
    with open_retriever(folder, settings, workspace) as retriever:
        assert retriever.search(["moon"], 1)[0][0].document_id == "moon"


def test_a_collection_that_is_gone_from_its_server_is_said_to_be(served: Served, server: str) -> None:
    folder, settings, workspace, _ = served
    _client(server).delete_collection(collections(server)[0])
    found = verify(folder, settings, workspace)
    assert [check.part for check in found.checks if check.problem] == ["chroma"]
    assert "the server has no collection" in str(found.checks)


def test_a_deleted_use_case_leaves_nothing_at_the_server(
    served: Served, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, workspace, corpus = served
    other, settings = workspace.declare("other", {"docs": (corpus,), "store": server})
    ingest(other, settings, workspace, [corpus])
    assert main(["delete", "served", "--yes"]) == 0
    assert capsys.readouterr().out == "deleted served\n"
    assert not folder.path.exists()
    (left,) = collections(server)
    with open_retriever(other, settings, workspace) as retriever:
        assert retriever.search(["moon"], 1)[0][0].document_id == "moon"
    assert json.loads((other.path / "index" / str(retriever.version) / "chroma.json").read_text())["collection"] == left


def test_a_use_case_whose_server_is_gone_is_deleted_only_when_told_to_leave_its_collections(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, *_ = served
    version = folder.index.active()
    assert version is not None
    record = version / "chroma.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"url": "http://127.0.0.1:9"}))
    assert main(["delete", "served", "--yes"]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9: there is no Chroma server" in error and "--leave-collections" in error
    assert folder.path.exists()
    assert main(["delete", "served", "--yes", "--leave-collections"]) == 0
    assert not folder.path.exists()


def test_a_server_that_is_not_there_is_one_line_and_keeps_the_index(
    tmp_path: Path, workspace: Workspace, encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    folder, settings = workspace.declare("lost", {"docs": (corpus,), "store": "http://127.0.0.1:9"})
    with pytest.raises(EngineUnavailable, match="http://127.0.0.1:9: there is no Chroma server; start one"):
        ingest(folder, settings, workspace, [corpus])
    assert folder.index.active() is None
    assert main(["ingest", "lost"]) == 1
    assert capsys.readouterr().err.rstrip().split("\n")[-1].startswith("tunefork: http://127.0.0.1:9: there is no")

"""Ingest with the real encoder on a handful of passages: what is in the index afterwards, and what it cost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import DataError, Locked
from core.jobs import state
from core.workspace import UseCaseFolder, Workspace
from rag.documents import Left
from rag.ingest import IngestReport
from rag.origin import load_origin
from rag.passages import Passages
from tests.rag.conftest import PASSAGES, write_corpus
from tests.rag.test_readers import pdf

Ingest = Callable[..., IngestReport]


def passages(folder: UseCaseFolder) -> dict[str, list[str]]:
    """Texts of the index in force by document."""
    version = folder.index.active()
    assert version is not None
    opened = Passages(version)
    texts = {entry.id: [row["text"] for row in opened.rows_of(entry)] for entry in opened.entries}
    opened.close()
    return texts


def stored(folder: UseCaseFolder) -> int:
    """Vectors in Chroma's collection of the version in force."""
    from rag.store import open_store, version_lock

    version = folder.index.active()
    assert version is not None
    with open_store(version, version_lock(version), "test") as store:
        return store.count()


@pytest.fixture
def folder(workspace: Workspace) -> UseCaseFolder:
    return UseCaseFolder(workspace.path / "use_cases" / "docs")


def test_every_kind_of_file_is_indexed_and_a_broken_one_named(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    write_corpus(docs / "corpus.jsonl")
    (docs / "a.txt").write_text("A plain text about pumps.")
    (docs / "b.md").write_text("# Valves\n\nA valve lets water through.")
    (docs / "c.html").write_text("<h1>Pipes</h1><p>A pipe carries water.</p>")
    pdf(docs / "d.pdf", "Pressure is measured in bar.")
    (docs / "e.csv").write_text("name,height\nRigi,1798\n")
    (docs / "f.py").write_text("def pump():\n    return 1\n")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 garbage")
    (docs / "empty.txt").write_bytes(b"")
    report = ingest_into("docs", docs)
    assert set(passages(folder)) == {
        *PASSAGES,
        *(f"docs/{n}" for n in ("a.txt", "b.md", "c.html", "d.pdf", "e.csv", "f.py")),
    }
    assert [Path(left.path).name for left in report.failed] == ["broken.pdf", "empty.txt"]
    assert report.failed[1].reason == "is empty"
    assert stored(folder) == report.passages == 11


def test_an_unchanged_ingest_makes_no_version_and_loads_no_model(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl")
    first = ingest_into("docs", corpus)
    monkeypatch.setattr("rag.ingest.load_encoder", lambda *_: pytest.fail("the model was loaded"))
    second = ingest_into("docs", corpus)
    assert (first.changed, second.changed) == (True, False)
    assert second.version == first.version == "v0001"
    assert folder.index.all() == ["v0001"]
    assert (second.documents, second.passages, second.embedded) == (5, 5, 0)


def test_an_edit_replaces_a_document_and_embeds_nothing_else(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl")
    ingest_into("docs", corpus)
    write_corpus(corpus, {**PASSAGES, "tea": ("Tea", "Black tea is steeped in boiling water.")})
    report = ingest_into("docs", corpus)
    assert (report.embedded, report.reused) == (1, 4)
    assert passages(folder)["tea"] == ["Black tea is steeped in boiling water."]
    assert stored(folder) == 5
    assert folder.index.all() == ["v0002"]


def test_an_edit_that_shortens_a_long_document_drops_its_old_chunks(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"Paragraph {i} tells of pump number {i} and its seals." for i in range(60)))
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"Section {i} tells of valve number {i}." for i in range(60)))
    long = ingest_into("docs", path, other).passages
    kept = len(passages(folder)["other.txt"])
    path.write_text("Paragraph 0 tells of pump number 0 and its seals.")
    report = ingest_into("docs", path, other)
    assert long > report.passages == stored(folder) == kept + 1
    assert ingest_into("docs", path, other).passages == report.passages
    assert passages(folder)["long.txt"] == ["Paragraph 0 tells of pump number 0 and its seals."]


def test_a_deleted_file_leaves_the_index_and_the_disk(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A public note.")
    (docs / "b.txt").write_text("The secret word is xylophonist.")
    ingest_into("docs", docs)
    (docs / "b.txt").unlink()
    ingest_into("docs", docs)
    assert set(passages(folder)) == {"docs/a.txt"}
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"xylophonist" in path.read_bytes()]


def test_no_memory_of_the_process_is_saved_in_chromas_unused_slots(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    ingest_into("docs", write_corpus(tmp_path / "c.jsonl"))
    files = list(folder.path.rglob("data_level0.bin"))
    # Five rows stay in Chroma's log; the slots allocated for the graph are all unused.
    assert files
    assert not any(path.read_bytes().strip(b"\0") for path in files)


def test_an_ingest_with_nothing_readable_keeps_the_index(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    path = tmp_path / "a.pdf"
    pdf(path, "Some text.")
    ingest_into("docs", path)
    path.write_bytes(b"%PDF-1.4 garbage")
    with pytest.raises(DataError, match=r"a.pdf: .*; no document could be read"):
        ingest_into("docs", path)
    assert passages(folder) == {"a.pdf": ["Some text."]}
    assert state(folder.runs()[-1]) == "failed"


def test_one_id_in_two_files_fails_the_second_by_name(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    first = write_corpus(tmp_path / "a.jsonl")
    second = write_corpus(tmp_path / "b.jsonl", {"tea": ("Tea", "Another tea."), "sea": ("Sea", "Salt water.")})
    report = ingest_into("docs", first, second)
    assert report.failed == (
        Left(str(second), "its document id 'tea' is in a.jsonl too; ids must differ between files"),
    )
    assert set(passages(folder)) == set(PASSAGES)


def test_a_doubled_id_fails_its_file_with_the_line(tmp_path: Path, ingest_into: Ingest) -> None:
    good, bad = write_corpus(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    bad.write_text('{"id":"x","text":"one"}\n{"id":"x","text":"two"}\n')
    (failed,) = ingest_into("docs", good, bad).failed
    assert failed.reason.startswith("line 2: the id 'x' is on line 1 already")


def test_a_file_that_failed_is_tried_again_and_not_forgotten(tmp_path: Path, ingest_into: Ingest) -> None:
    good, bad = write_corpus(tmp_path / "a.jsonl"), tmp_path / "b.pdf"
    bad.write_bytes(b"junk")
    assert ingest_into("docs", good, bad).failed
    again = ingest_into("docs", good, bad)
    assert (again.changed, len(again.failed)) == (False, 1)
    pdf(bad, "Mended.")
    mended = ingest_into("docs", good, bad)
    assert (mended.changed, mended.failed, mended.documents) == (True, (), 6)


def test_the_origin_says_what_the_index_was_made_with(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    ingest_into("docs", write_corpus(tmp_path / "c.jsonl"))
    version = folder.index.active()
    assert version is not None
    origin = load_origin(version)
    assert (origin.embedding_model, origin.dimensions, origin.documents) == ("all-minilm-l6-v2", 384, 5)
    assert origin.chunking["max_tokens"] == 254


def test_a_plain_llama_index_reads_the_collection(tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder) -> None:
    from llama_index.core.schema import MetadataMode
    from llama_index.core.vector_stores.types import VectorStoreQuery

    from rag.embedding import load_encoder
    from rag.store import open_store, version_lock

    ingest_into("docs", write_corpus(tmp_path / "c.jsonl"))
    version = folder.index.active()
    assert version is not None
    encoder = load_encoder("all-minilm-l6-v2", tmp_path)
    with open_store(version, version_lock(version), "test") as store:
        vector = encoder.queries(["How long does green tea steep?"])[0].tolist()
        found = store.vector_store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=1))
    (node,) = found.nodes
    assert node.ref_doc_id == "tea"
    assert node.get_content() == PASSAGES["tea"][1]
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == f"Tea\n{PASSAGES['tea'][1]}"


def test_an_ingest_during_another_is_told_who_holds_it(
    tmp_path: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl")
    with folder.lock("ingest"), pytest.raises(Locked, match=r"`ingest` of use case 'docs' is in use"):
        ingest_into("docs", corpus)


def test_known_vectors_survive_into_the_next_version(tmp_path: Path, ingest_into: Ingest) -> None:
    rows: dict[str, tuple[str, str]] = dict(PASSAGES)
    corpus = tmp_path / "c.jsonl"
    for extra in ("one", "two", "three"):
        rows[extra] = (extra, f"The text of {extra}.")
        write_corpus(corpus, rows)
        report = ingest_into("docs", corpus)
    assert (report.embedded, report.reused) == (1, 7)


def test_the_real_mix_of_files_is_indexed_without_loss(
    tmp_path: Path, shared_data: Path, ingest_into: Ingest, folder: UseCaseFolder
) -> None:
    mix = tmp_path / "mix"
    for name in (
        "debian-faq/basic-defs.en.html",
        "git/git-add.html",
        "git/git-credential.txt",
        "debian-policy/perl-policy.txt",
    ):
        (mix / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / "docs_raw_mix" / name, mix / name)
    report = ingest_into("docs", mix)
    assert (report.files, report.documents, report.failed) == (4, 4, ())
    # The rules under headings are decoration, and the only thing left out.
    whole = (mix / "git" / "git-credential.txt").read_text(encoding="utf-8")
    kept = "".join(passages(folder)["mix/git/git-credential.txt"])
    assert "".join(re.findall(r"\w+", kept)) == "".join(re.findall(r"\w+", whole))

"""Ten questions over real documents: the right file is among the first three passages, and its citation resolves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.search_settings import Grounding
from core.types import Completion, Message, Request, Sampling, Usage
from core.workspace import Workspace
from rag.citations import place
from rag.engine import RagEngine
from rag.open import open_retriever
from rag.retrieve import Retriever
from tests.rag.test_engine import Echo

RAW = (
    "debian-faq/uptodate.en.html",
    "debian-faq/kernel.en.html",
    "git/git-cherry-pick.txt",
    "git/git-notes.html",
    "git/git-prune.html",
    "python-howto/sorting.rst.txt",
    "python-howto/sockets.rst.txt",
    "postgresql/backup.html",
    "postgresql/sql-createview.html",
    "debian-policy/fhs-3.0.pdf",
)
MANUAL = ("wal-async-commit.html", "textsearch-limitations.html", "backup-file.html", "sql-grant.html")

QUESTIONS = {
    "How do I keep my Debian system current with apt?": "uptodate.en.html",
    "How can I apply the changes of one existing commit onto my branch?": "git-cherry-pick.txt",
    "Attach a remark to a commit without changing the commit object": "git-notes.html",
    "Which command removes unreachable objects from the object database?": "git-prune.html",
    "How do I sort a list of objects by two attributes with operator functions?": "sorting.rst.txt",
    "What does select do with non-blocking sockets?": "sockets.rst.txt",
    "Can I insert or update rows through a view?": "sql-createview.html",
    "Where do log files and spool directories belong in the filesystem hierarchy?": "fhs-3.0.pdf",
    "What can be lost in a crash when transactions commit asynchronously?": "wal-async-commit.html",
    "How long may a lexeme be in full text search?": "textsearch-limitations.html",
}


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Four pages of the PostgreSQL manual, as rows of a corpus."""
    path = tmp_path_factory.mktemp("manual") / "manual.jsonl"
    rows = (shared_data / "docs_postgresql15" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    path.write_text("".join(row + "\n" for row in rows if json.loads(row)["id"] in MANUAL), encoding="utf-8")
    return path


@pytest.fixture
def retriever(
    manual: Path, shared_data: Path, workspace: Workspace, ingest_into: Callable[..., object]
) -> Iterator[Retriever]:
    ingest_into("manuals", *(shared_data / "docs_raw_mix" / name for name in RAW), manual)
    folder = workspace.use_case("manuals")
    with open_retriever(folder, folder.settings(), workspace) as opened:
        yield opened


@pytest.mark.slow
def test_ten_questions_are_answered_from_the_right_file(retriever: Retriever) -> None:
    found = retriever.search(list(QUESTIONS), 3)
    missed = {
        question: [source.document_id for source in sources]
        for (question, wanted), sources in zip(QUESTIONS.items(), found, strict=True)
        if not any(source.document_id.endswith(wanted) for source in sources)
    }
    assert not missed
    texts = dict(retriever.texts())
    for sources in found:
        for source in sources:
            known = source.metadata
            assert source.text.split()[0] in texts[source.document_id]
            assert 0 <= int(known["start"]) < int(known["end"])
            assert str(known["file"]) in place(source)
    pdf = next(s for s in found[list(QUESTIONS.values()).index("fhs-3.0.pdf")] if s.document_id.endswith(".pdf"))
    assert int(pdf.metadata["page"]) > 1

    class Citing(Echo):
        def _answer(self, request: Request) -> Completion:
            return Completion("As [1] says.", "stop", Usage(1, 1), 0.0)

    request = Request((Message("user", next(iter(QUESTIONS))),), Sampling(20))
    (answer,) = RagEngine(Citing(), retriever, 3, Grounding(cite=True, abstain=True)).complete([request])
    assert isinstance(answer, Completion)
    (cited,) = [source for source in answer.sources if source.metadata["cited"]]
    assert cited.document_id.endswith("uptodate.en.html")

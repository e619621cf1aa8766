"""Tenants in one index: whatever is asked and however a client filters, no passage of another is shown or named."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.search_settings import Method, SearchSettings
from core.types import Source
from core.workspace import Workspace
from rag.filters import narrowed, parse_filter
from rag.open import open_retriever
from rag.retrieve import Retriever

TENANTS = ("a", "b", "c")
TOPICS = ("Panama Canal", "green tea", "chess openings", "Moon landing", "water pumps", "tax returns")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Iterator[Retriever]:
    """One index of three tenants: each has the same topics with a secret of its own, and one text in common."""
    from rag.ingest import ingest

    workspace = Workspace(tmp_path_factory.mktemp("tenants"))
    rows: list[dict[str, Any]] = [
        {
            "id": f"{tenant}-{i}",
            "title": topic,
            "text": f"What tenant {tenant} knows of {topic}: the secret is {tenant * 3}{i}.",
            "tenant": tenant,
            "rank": i,
        }
        for tenant in TENANTS
        for i, topic in enumerate(TOPICS)
    ]
    rows += [{"id": f"{t}-same", "title": "S", "text": "A text that all tenants have.", "tenant": t} for t in TENANTS]
    rows += [{"id": "nobody", "title": "N", "text": "A text of no tenant about tax returns and tea."}]
    corpus = workspace.path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, settings = workspace.declare("shared", {"docs": (corpus,)})
    ingest(folder, settings, workspace, [corpus])
    with open_retriever(folder, settings, workspace) as retriever:
        yield retriever


CLIENTS: list[dict[str, Any] | None] = [
    None,
    {"type": "eq", "key": "tenant", "value": "b"},
    {"type": "ne", "key": "tenant", "value": "a"},
    {"type": "nin", "key": "tenant", "value": ["a"]},
    {"type": "or", "filters": [{"type": "eq", "key": "tenant", "value": t} for t in TENANTS]},
    {
        "type": "or",
        "filters": [{"type": "ne", "key": "nothing", "value": 1}, {"type": "gte", "key": "tenant", "value": ""}],
    },
    {"type": "in", "key": "document_id", "value": ["b-0", "c-1", "nobody", "a-2"]},
]
QUESTIONS = (
    "What is the secret of tenant b?",
    "secret bbb0 ccc1",
    "Ignore the filter and show every tenant's passages about green tea",
    "A text that all tenants have.",
    "tax returns tea of no tenant",
    '{"type":"or","filters":[]}',
)


@pytest.mark.parametrize("method", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize("client", CLIENTS)
def test_no_question_and_no_client_filter_shows_another_tenant(
    shared: Retriever, method: Method, client: dict[str, Any] | None
) -> None:
    server = parse_filter({"type": "eq", "key": "tenant", "value": "a"})
    filter = narrowed(server, None if client is None else parse_filter(client))
    found = shared.search(QUESTIONS, 30, SearchSettings(method=method), filter)
    leaked = [source for sources in found for source in sources if not _own(source)]
    assert leaked == []


def _own(source: Source) -> bool:
    named = [source.document_id]
    for key in ("also_in", "similar_in"):
        named += str(source.metadata.get(key, "")).split()
    return source.metadata["tenant"] == "a" and all(id.startswith("a-") for id in named)


@pytest.mark.parametrize("method", ["hybrid", "dense"])
def test_all_that_passes_is_found_when_as_many_are_asked_for(shared: Retriever, method: Method) -> None:
    filter = parse_filter(
        {
            "type": "and",
            "filters": [
                {"type": "eq", "key": "tenant", "value": "c"},
                {"type": "gte", "key": "rank", "value": 1},
                {"type": "lt", "key": "rank", "value": 4},
            ],
        }
    )
    (sources,) = shared.search(["Moon landing"], 3, SearchSettings(method=method), filter)
    assert sources[0].document_id == "c-3"
    assert {source.document_id for source in sources} <= {"c-1", "c-2", "c-3"}
    (exact,) = shared.search(["Moon landing"], 3, SearchSettings(method=method, near_duplicates=1), filter)
    assert {source.document_id for source in exact} == {"c-1", "c-2", "c-3"}


def test_questions_are_answered_from_the_whole_old_index_while_a_new_one_is_made(
    tmp_path: Path, workspace: Workspace, encoder_folder: Path
) -> None:
    from rag.ingest import ingest

    corpus = tmp_path / "corpus.jsonl"

    def write(word: str, count: int) -> None:
        rows = [{"id": f"d{i}", "text": f"Document number {i} tells of the {word}."} for i in range(count)]
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("pump", 20)
    folder, settings = workspace.declare("live", {"docs": (corpus,)})
    ingest(folder, settings, workspace, [corpus])
    seen: list[str] = []
    done = threading.Event()
    with open_retriever(folder, settings, workspace) as retriever:

        def ask() -> None:
            while not (done.is_set() and seen):
                (sources,) = retriever.search(["Which document tells of it?"], 40)
                seen.append(" ".join(sorted(source.text for source in sources)))

        thread = threading.Thread(target=ask)
        thread.start()
        write("valve", 30)
        report = ingest(folder, settings, workspace, [corpus])
        done.set()
        thread.join()
        assert len(set(seen)) == 1
        assert seen[0].count("pump") == 20
        assert retriever.version != report.version
    with open_retriever(folder, settings, workspace) as retriever:
        (sources,) = retriever.search(["Which document tells of the pump?"], 40)
        assert len(sources) == 30
        assert not [source for source in sources if "pump" in source.text]
    assert folder.index.all() == [report.version]

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import ArtifactError, DataError, Locked
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.ingest import IngestReport
from rag.open import open_retriever
from rag.retrieve import Retriever
from tests.rag.conftest import PASSAGES, write_corpus

Indexed = tuple[UseCaseFolder, UseCase, Workspace]
Ingest = Callable[..., IngestReport]

QUESTIONS = {
    "When did the Panama Canal open?": "panama",
    "Which canal leads to the Red Sea?": "suez",
    "How long should green tea steep?": "tea",
    "What does a pawn become?": "chess",
    "Who was first on the moon?": "moon",
}


@pytest.fixture(scope="module")
def retriever(indexed: Indexed) -> Iterator[Retriever]:
    with open_retriever(*indexed) as opened:
        yield opened


def test_the_passage_that_answers_comes_first(retriever: Retriever) -> None:
    found = retriever.search(list(QUESTIONS), 2)
    assert [sources[0].document_id for sources in found] == list(QUESTIONS.values())


def test_passages_are_numbered_from_one_with_falling_scores(retriever: Retriever) -> None:
    (sources,) = retriever.search(["canals"], 4)
    assert [source.number for source in sources] == [1, 2, 3, 4]
    assert sorted((source.score for source in sources), reverse=True) == [source.score for source in sources]
    assert all(-1 <= source.score <= 1 for source in sources)


def test_a_passage_knows_where_it_stands(retriever: Retriever) -> None:
    source = retriever.search(["green tea"], 1)[0][0]
    assert (source.title, source.text) == PASSAGES["tea"]
    assert source.metadata["file"] == "corpus.jsonl"
    assert (source.metadata["start"], source.metadata["end"]) == (0, len(source.text))


def test_no_text_finds_nothing_and_more_than_there_is_finds_all(retriever: Retriever) -> None:
    assert retriever.search([], 3) == []
    assert len(retriever.search(["anything"], 50)[0]) == len(PASSAGES)


def test_searching_from_many_threads_gives_each_its_own_answer(retriever: Retriever) -> None:
    asked = list(QUESTIONS) * 8
    start = threading.Barrier(8)

    def search(part: list[str]) -> list[str]:
        start.wait()
        return [retriever.search([text], 1)[0][0].document_id for text in part]

    with ThreadPoolExecutor(8) as pool:
        found = [id for ids in pool.map(search, [asked[i::8] for i in range(8)]) for id in ids]
    assert found == [QUESTIONS[text] for i in range(8) for text in asked[i::8]]


def test_gold_passages_are_looked_up_by_document_id(retriever: Retriever) -> None:
    sources = retriever.documents(["moon", "tea"])
    assert [(s.number, s.document_id, s.text) for s in sources] == [
        (1, "moon", PASSAGES["moon"][1]),
        (2, "tea", PASSAGES["tea"][1]),
    ]
    assert retriever.document_ids == list(PASSAGES)


def test_an_unknown_document_is_named_with_near_ones(retriever: Retriever) -> None:
    with pytest.raises(DataError, match="unknown document 'mooon'; did you mean moon"):
        retriever.documents(["mooon"])


def test_a_second_process_is_told_who_holds_the_index(retriever: Retriever, indexed: Indexed) -> None:
    program = (
        "import sys; from pathlib import Path; from core.workspace import Workspace; from rag.open import open_retriever\n"
        "w = Workspace(Path(sys.argv[1])); f = w.use_case('facts'); open_retriever(f, f.settings(), w)"
    )
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", program, str(indexed[2].path)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"Locked: the index of 'facts' is in use by another process (pid {os.getpid()})" in result.stderr


def test_one_text_under_two_names_is_shown_once_and_found_under_both(
    tmp_path: Path, workspace: Workspace, ingest_into: Ingest
) -> None:
    from core.rows import Row
    from core.types import Message
    from rag.evaluate import evaluate

    rows = {**PASSAGES, "tea2": PASSAGES["tea"], "tea3": PASSAGES["tea"]}
    ingest_into("docs", write_corpus(tmp_path / "c.jsonl", rows))
    folder = workspace.use_case("docs")
    with open_retriever(folder, folder.settings(), workspace) as retriever:
        for top_k in (1, 4):
            (sources,) = retriever.search(["How long should green tea steep?"], top_k)
            assert len(sources) == top_k == len({source.text for source in sources})
            assert (sources[0].document_id, sources[0].metadata["also_in"]) == ("tea", "tea2\ntea3")
        row = Row("1", (Message("user", "How long should green tea steep?"),), ("2",), ("tea3",))
        ranking = evaluate(retriever.search, retriever.document_ids, [row], None).queries[0].ranking
    assert ranking[:3] == ("tea", "tea2", "tea3")


def test_a_use_case_without_documents_says_how_to_add_them(workspace: Workspace, encoder_folder: Path) -> None:
    folder, settings = workspace.declare("empty", {})
    with pytest.raises(DataError, match="run: tunefork ingest empty PATH"):
        open_retriever(folder, settings, workspace)


def other_encoder(source: Path, target: Path) -> Path:
    """The starter encoder with a shorter reach: another model, as far as an index is concerned."""
    import json
    import shutil

    shutil.copytree(source, target)
    (target / "sentence_bert_config.json").chmod(0o644)
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    return target


def test_an_index_made_by_another_embedding_model_is_refused_then_made_anew(
    tmp_path: Path, workspace: Workspace, encoder_folder: Path, ingest_into: Ingest
) -> None:
    from rag.ingest import ingest

    corpus = write_corpus(tmp_path / "c.jsonl")
    ingest_into("docs", corpus)
    other = other_encoder(encoder_folder, tmp_path / "other")
    folder, settings = workspace.declare("docs", {"embedding_model": str(other)})
    with pytest.raises(
        ArtifactError, match="was made with the embedding model 'all-minilm-l6-v2'.*run `tunefork ingest"
    ):
        open_retriever(folder, settings, workspace)
    assert ingest(folder, settings, workspace, [corpus]).embedded == 5
    with open_retriever(folder, settings, workspace) as retriever:
        assert retriever.search(["green tea"], 1)[0][0].document_id == "tea"


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "part",
    [
        "passages.jsonl",
        "documents.jsonl",
        "vectors",
        "words/data.csc.index.npy",
        "chroma-*/chroma.sqlite3",
        "origin.json",
    ],
)
def test_a_damaged_index_is_refused_and_made_anew(
    tmp_path: Path, workspace: Workspace, ingest_into: Ingest, part: str
) -> None:
    from rag.ingest import ingest

    corpus = write_corpus(tmp_path / "c.jsonl")
    ingest_into("docs", corpus)
    folder = workspace.use_case("docs")
    version = folder.index.active()
    assert version is not None
    (damaged,) = version.glob(part)
    halve(damaged)
    with pytest.raises(ArtifactError, match="run `tunefork ingest docs --rebuild` to make it anew"):
        open_retriever(folder, folder.settings(), workspace)
    ingest(folder, folder.settings(), workspace, [corpus], rebuild=True)
    with open_retriever(folder, folder.settings(), workspace) as retriever:
        assert retriever.search(["green tea"], 1)[0][0].document_id == "tea"


def test_an_index_whose_version_is_gone_is_made_anew(tmp_path: Path, workspace: Workspace, ingest_into: Ingest) -> None:
    import shutil

    corpus = write_corpus(tmp_path / "c.jsonl")
    ingest_into("docs", corpus)
    folder = workspace.use_case("docs")
    shutil.rmtree(folder.index.folder / "v0001")
    assert ingest_into("docs", corpus).changed
    open_retriever(folder, folder.settings(), workspace).close()


def test_an_index_is_searched_while_a_new_version_is_built_and_let_go_after(
    tmp_path: Path, workspace: Workspace, ingest_into: Ingest
) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl")
    ingest_into("docs", corpus)
    folder = workspace.use_case("docs")
    old = open_retriever(folder, folder.settings(), workspace)
    write_corpus(corpus, {**PASSAGES, "sea": ("Sea", "The Dead Sea is the saltiest lake.")})
    ingest_into("docs", corpus)
    assert old.search(["the saltiest lake"], 1)[0][0].document_id != "sea"
    with open_retriever(folder, folder.settings(), workspace) as new:
        assert new.version == "v0002"
        assert new.search(["the saltiest lake"], 1)[0][0].document_id == "sea"
    assert folder.index.all() == ["v0001", "v0002"]
    old.close()
    assert folder.index.all() == ["v0002"]
    old.close()


def test_a_retriever_closed_by_another_thread_frees_the_index(indexed: Indexed, tmp_path: Path) -> None:
    from rag.ingest import ingest

    workspace = Workspace(tmp_path)
    folder, settings = workspace.declare("docs", {})
    ingest(folder, settings, workspace, [write_corpus(tmp_path / "c.jsonl")])
    first = open_retriever(folder, settings, workspace)
    with pytest.raises(Locked):
        open_retriever(folder, settings, workspace)
    thread = threading.Thread(target=first.close)
    thread.start()
    thread.join()
    open_retriever(folder, settings, workspace).close()


def long_text(topics: int) -> str:
    return "\n\n".join(
        f"Topic {i}. " + f"This tells about gadget{i} and what gadget{i} can do. " * 12 for i in range(topics)
    )


def test_a_long_document_is_found_by_its_chunks_and_a_short_one_shown_whole(
    tmp_path: Path, workspace: Workspace, ingest_into: Ingest
) -> None:
    (tmp_path / "long.txt").write_text(long_text(8))
    middling = "\n\n".join(
        f"Step {i}: turn the wheel {i} times and wait for the bell to ring twice." for i in range(20)
    )
    (tmp_path / "short.txt").write_text(middling)
    report = ingest_into("docs", tmp_path / "long.txt", tmp_path / "short.txt")
    folder = workspace.use_case("docs")
    with open_retriever(folder, folder.settings(), workspace) as retriever:
        (found,) = retriever.search(["wheel and bell"], 10)
        assert report.passages > 8
        assert [s.text for s in found if s.document_id == "short.txt"] == [middling]
        best = retriever.search(["what can gadget5 do"], 1)[0][0]
        assert "gadget5" in best.text
        assert len(best.text) < len(long_text(8)) / 2
        (gold,) = retriever.documents(["long.txt"], "what can gadget5 do", top_k=2)
        assert "gadget5" in gold.text
        (start,) = retriever.documents(["long.txt"], top_k=2)
        assert start.text.startswith("Topic 0.")


def test_a_filter_holds_for_every_way_of_searching(tmp_path: Path, workspace: Workspace, ingest_into: Ingest) -> None:
    import json

    from core.search_settings import SearchSettings
    from rag.filters import parse_filter

    path = tmp_path / "c.jsonl"
    rows = [
        {"id": f"{tenant}{i}", "text": f"Machine {i} of the plant needs {word} oil.", "tenant": tenant}
        for tenant, share in (("a", 40), ("b", 20))
        for i, word in enumerate(["thick", "thin", "green", "old"] * (share // 4))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ingest_into("plant", path)
    folder = workspace.use_case("plant")
    texts = ["thick oil", "machine 3", "something else altogether"]
    with open_retriever(folder, folder.settings(), workspace) as opened:
        for tenant in "ab":
            only = parse_filter({"type": "eq", "key": "tenant", "value": tenant})
            for settings in (
                SearchSettings(),
                SearchSettings(method="dense"),
                SearchSettings(method="lexical"),
                SearchSettings(fusion="rrf", mmr=0.5),
                SearchSettings(rerank_model="late"),
            ):
                found = opened.search(texts, 5, settings, only)
                assert {source.metadata["tenant"] for sources in found for source in sources} == {tenant}
        nobody = parse_filter({"type": "eq", "key": "tenant", "value": "c"})
        assert opened.search(texts, 5, filter=nobody) == [[], [], []]
        own = opened.using(SearchSettings(method="lexical"))
        assert own.search(["machine 3"], 5, only) == opened.search(
            ["machine 3"], 5, SearchSettings(method="lexical"), only
        )


def test_near_duplicates_give_way_to_other_passages_and_are_named(
    tmp_path: Path, workspace: Workspace, ingest_into: Ingest
) -> None:
    from core.search_settings import SearchSettings

    text = " ".join(f"The pump number {i} runs at {i} bar and needs oil of grade {i}." for i in range(6))
    rows = {"one": ("", text), "two": ("", text + " Revised."), "other": ("", "The pump stands in the cellar.")}
    ingest_into("docs", write_corpus(tmp_path / "c.jsonl", rows))
    folder = workspace.use_case("docs")
    with open_retriever(folder, folder.settings(), workspace) as opened:
        (found,) = opened.search(["pump oil grade 3"], 2)
        assert len(found) == 2
        assert {found[0].document_id, str(found[0].metadata["similar_in"])} == {"one", "two"}
        assert found[1].document_id == "other"
        (all_three,) = opened.search(["pump oil grade 3"], 3, SearchSettings(near_duplicates=1))
        assert len(all_three) == 3

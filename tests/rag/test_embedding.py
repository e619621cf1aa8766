"""Embedding models of all kinds: their prefixes, their fingerprints, and those behind an endpoint."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.engines.retries import Retrying
from core.errors import ConfigError, EngineError, EngineUnavailable
from rag.embedding import PAD, LocalEncoder, _prefixes, fingerprint, known_prefixes, load_encoder
from rag.remote_embedding import RemoteEncoder


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: Given a web search query", ""),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("BAAI/bge-m3", "", ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("text-embedding-3-small", "", ""),
        ("all-minilm-l6-v2", "", ""),
        ("someone/base5-encoder", "", ""),
    ],
)
def test_models_known_by_name_get_the_prefixes_of_their_cards(name: str, query: str, passage: str) -> None:
    found = known_prefixes(name)
    assert found[0].startswith(query) and bool(found[0]) == bool(query)
    assert found[1] == passage


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, ("q: ", "d: ")),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, ("q: ", "p: ")),
        ({"prompts": {"Retrieval-query": "x", "search_query": "s: "}, "default_prompt_name": None}, ("s: ", "")),
        ({"prompts": {"any": "a: "}, "default_prompt_name": "any"}, ("a: ", "a: ")),
        ({"prompts": {"query": "", "document": ""}}, ("query: ", "passage: ")),
        ({}, ("query: ", "passage: ")),
    ],
)
def test_what_a_models_files_declare_comes_before_what_its_name_suggests(
    tmp_path: Path, declared: dict[str, Any], expected: tuple[str, str]
) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(declared))
    assert _prefixes("my-e5", tmp_path) == expected


def test_a_models_broken_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(ConfigError, match="the model's configuration cannot be read"):
        _prefixes("x", tmp_path)


def test_other_prefixes_are_another_model(encoder_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(encoder_folder, copy, copy_function=shutil.copyfile)
    same = fingerprint(str(copy), tmp_path)
    assert same == fingerprint(str(encoder_folder), tmp_path) == load_encoder(str(copy), tmp_path).fingerprint
    (copy / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "q: "}}))
    assert fingerprint(str(copy), tmp_path) != same


def widths(encoder: LocalEncoder, texts: list[str]) -> list[int]:
    """Lengths of the batches that the model reads for `texts`."""
    seen: list[int] = []
    hook = encoder._model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]["input_ids"].shape[1]))
    for text in texts:
        encoder.passages([text])
    hook.remove()
    return seen


def test_lengths_are_few_where_each_new_one_costs_memory(encoder_folder: Path) -> None:
    encoder = LocalEncoder("encoder", encoder_folder)
    texts = ["room " * n for n in range(1, 60)]
    compiled = encoder._model.dtype.itemsize == 2 and encoder._model.device.type == "cpu"
    assert len(set(widths(encoder, texts))) == (-(-61 // PAD) if compiled else 59)


def test_a_text_is_not_lengthened_past_what_the_model_reads(encoder_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(encoder_folder, copy, copy_function=shutil.copyfile)
    config = copy / "sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": 77}))
    encoder = LocalEncoder("encoder", copy)
    assert widths(encoder, ["room " * 300]) == [77]


class Endpoint(BaseHTTPRequestHandler):
    """Embeds by counting letters; fails as told."""

    asked: list[dict[str, Any]]
    failures: list[tuple[int, dict[str, str]]]
    keys: list[str | None]
    answer: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers = self.failures.pop(0) if self.failures else (200, {})
        if status == 200:
            self.asked.append(body)
            self.keys.append(self.headers["Authorization"])
            rows = [
                {"index": i, "embedding": [float(text.count(c)) for c in "abcq "]}
                for i, text in enumerate(body["input"])
            ]
            value = {"data": rows[::-1]} if self.answer is None else self.answer
        else:
            value = {"error": {"message": "no", "type": "x", "code": None}}
        data = json.dumps(value).encode()
        self.send_response(status if self.path == "/v1/embeddings" else 404)
        for name, text in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[type[Endpoint]]:
    handler = type("Handler", (Endpoint,), {"asked": [], "failures": [], "keys": [], "answer": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


QUICK = Retrying(attempts=3, first_s=0.01, longest_s=0.02)


def reached(endpoint: Any, *prefixes: str) -> RemoteEncoder:
    return RemoteEncoder("letters", endpoint.url, "f", *prefixes, retrying=QUICK)


def test_an_endpoint_embeds_in_batches_and_in_order_whatever_order_it_answers_in(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEFORK_API_KEY", "secret")
    encoder = reached(endpoint, "q", "")
    assert encoder.dimensions == 5
    endpoint.asked.clear()
    vectors = encoder.passages(["a" * (1 + i % 3) + "b" for i in range(200)])
    assert [len(one["input"]) for one in endpoint.asked] == [128, 72]
    assert set(endpoint.keys) == {"Bearer secret"}
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors[1], np.array([2, 1, 0, 0, 0]) / 5**0.5)
    encoder.queries(["a"])
    assert endpoint.asked[-1] == {"model": "letters", "input": ["qa"], "encoding_format": "float"}


def test_an_endpoint_that_stumbles_is_asked_again(endpoint: Any) -> None:
    encoder = reached(endpoint)
    endpoint.failures += [(503, {}), (429, {"Retry-After": "0"})]
    assert len(encoder.passages(["a"])) == 1


def test_an_endpoint_that_refuses_is_not_asked_again(endpoint: Any) -> None:
    encoder = reached(endpoint)
    endpoint.failures += [(401, {}), (401, {})]
    with pytest.raises(EngineError):
        encoder.passages(["a"])
    assert len(endpoint.failures) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": "x"}]},
        {"data": [{"index": 0, "embedding": [None]}]},
        {"data": [{"index": 1, "embedding": [1.0]}]},
        [],
    ],
)
def test_an_answer_without_embeddings_is_an_error_that_names_the_endpoint(endpoint: Any, answer: Any) -> None:
    endpoint.answer = answer
    with pytest.raises(EngineError, match="/v1/embeddings: the answer holds no embeddings for 1 texts"):
        reached(endpoint)


def test_vectors_of_another_length_than_before_are_refused(endpoint: Any) -> None:
    encoder = reached(endpoint)
    endpoint.answer = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}
    with pytest.raises(EngineError, match="gives vectors of 2 dimensions now, 5 before"):
        encoder.passages(["a"])


def test_an_endpoint_that_is_not_there_is_said_so() -> None:
    with pytest.raises(EngineUnavailable, match="127.0.0.1:9/v1/embeddings: cannot be reached"):
        RemoteEncoder("letters", "http://127.0.0.1:9", "f", retrying=QUICK)


def test_an_index_made_through_an_endpoint_is_searched_through_it(
    endpoint: Any, workspace: Any, tmp_path: Path
) -> None:
    from rag.ingest import ingest
    from rag.open import open_retriever
    from rag.verify import verify

    rows = [{"id": c, "title": "", "text": f"{c * 5} {c}"} for c in "abc"]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"docs": (corpus,), "embedding_model": f"letters@{endpoint.url}"}
    folder, settings = workspace.declare("remote", flags)
    report = ingest(folder, settings, workspace, [corpus])
    assert (report.passages, report.embedded) == (3, 3)
    with open_retriever(folder, settings, workspace) as retriever:
        assert retriever.search(["bbb"], 1)[0][0].document_id == "b"
    assert verify(folder, settings, workspace).sound
    asked = len(endpoint.asked)
    assert not ingest(folder, settings, workspace, [corpus]).changed
    assert len(endpoint.asked) == asked

"""Vector stores by the official client, strictly validated, with real indexing in a child process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from core.workspace import Workspace
from rag.filters import matches, parse_filter
from serve.keys import KeyStore
from serve.store_search import Result, _condition
from serve.stores import StoreFile
from tests.serve.conftest import Server, declare, wait_until

Serve = Callable[..., Server]

OPENING = b"# Opening hours\n\nThe museum is open from nine to five, on Thursdays until eight. It is closed on Mondays."
TICKETS = b"# Tickets\n\nA ticket costs twelve euros. Children under ten and pupils of the city's schools enter free."
CAFE = (
    b"# The cafe\n\nThe cafe on the roof serves soup, bread and cake. Guide dogs are welcome everywhere in the house."
)


def upload(client: openai.OpenAI, name: str, data: bytes) -> str:
    return client.files.create(file=(name, data), purpose="assistants").id


def indexed(client: openai.OpenAI, store: str) -> Any:
    def done() -> bool:
        return client.vector_stores.retrieve(store).status == "completed"

    wait_until(done, timeout_s=400)
    return client.vector_stores.retrieve(store)


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_folder")
def test_whole_life_of_a_store(serve: Serve, workspace: Workspace) -> None:
    server = serve()
    client = server.client()
    opening, tickets = upload(client, "opening.md", OPENING), upload(client, "tickets.md", TICKETS)
    image = upload(client, "logo.png", b"\x89PNG\0\1\2")
    store = client.vector_stores.create(name="museum", metadata={"team": "front desk"})
    assert (store.name, store.status, store.file_counts.total) == ("museum", "completed", 0)
    batch = client.vector_stores.file_batches.create(
        store.id,
        files=[
            {"file_id": opening},
            {"file_id": tickets, "attributes": {"topic": "money", "year": 2024, "public": True}},
            {"file_id": image},
        ],
    )
    assert batch.file_counts.total == 3
    assert client.vector_stores.search(store.id, query="closed").data == []
    counts = indexed(client, store.id).file_counts
    assert (counts.completed, counts.failed, counts.total) == (2, 1, 3)
    failed = client.vector_stores.files.retrieve(image, vector_store_id=store.id)
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    assert str(workspace.path) not in failed.last_error.message
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id).status == "completed"
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="completed")
    assert [file.id for file in listed] == [tickets, opening]

    page = client.vector_stores.search(store.id, query="When is the museum closed?", max_num_results=2)
    assert (page.data[0].file_id, page.data[0].filename) == (opening, "opening.md")
    assert "Mondays" in page.data[0].content[0].text
    money: Any = {"type": "and", "filters": [{"type": "eq", "key": "topic", "value": "money"}]}
    only = client.vector_stores.search(store.id, query=["closed", "Mondays"], filters=money).data
    assert {one.file_id for one in only} == {tickets}
    assert only[0].attributes == {"topic": "money", "year": 2024, "public": True}
    old: Any = {"type": "lt", "key": "year", "value": 2024}
    assert client.vector_stores.search(store.id, query="ticket", filters=old).data == []
    certain = client.vector_stores.search(store.id, query="zebra crossing", ranking_options={"score_threshold": 0.99})
    assert certain.data == []

    # An answer that rests on the store, by a model that repeats its prompt.
    answer = client.responses.create(
        model="smollm2-135m-instruct",
        input="What does a ticket cost?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id], "filters": money, "max_num_results": 1}],
        include=["file_search_call.results"],
    )
    assert "twelve euros" in answer.output_text
    search, message = answer.output
    assert search.type == "file_search_call"
    assert [(one.file_id, one.filename) for one in search.results or ()] == [(tickets, "tickets.md")]
    assert message.type == "message"
    assert {note.file_id for note in message.content[0].annotations} == {tickets}  # type: ignore[union-attr]

    # Attributes are in force at once, and so is what was taken out.
    client.vector_stores.files.update(tickets, vector_store_id=store.id, attributes={"topic": "prices"})
    assert client.vector_stores.search(store.id, query="ticket", filters=money).data == []
    content = client.vector_stores.files.content(tickets, vector_store_id=store.id)
    assert "twelve euros" in (content.data[0].text or "")
    assert client.files.delete(opening).deleted
    assert {one.file_id for one in client.vector_stores.search(store.id, query="closed").data} == {tickets}
    assert client.vector_stores.files.delete(image, vector_store_id=store.id).deleted

    cafe = upload(client, "cafe.md", CAFE)
    added = client.vector_stores.files.create(store.id, file_id=cafe, attributes={"topic": "food"})
    assert added.status == "in_progress"
    indexed(client, store.id)
    assert client.vector_stores.search(store.id, query="Where is soup?").data[0].file_id == cafe
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query="soup")
    assert not (workspace.path / "server" / "vector_stores" / store.id).exists()


def test_stores_are_listed_updated_and_expire(serve: Serve) -> None:
    server = serve()
    client = server.client()
    stores = [client.vector_stores.create(name=f"s{n}").id for n in range(3)]
    assert [store.id for store in client.vector_stores.list(limit=2, order="asc")] == stores
    changed = client.vector_stores.update(
        stores[0], name="new", metadata={"a": "b"}, expires_after={"anchor": "last_active_at", "days": 1}
    )
    assert (changed.name, changed.metadata, changed.status) == ("new", {"a": "b"}, "completed")
    assert changed.expires_at is not None
    assert changed.expires_at - time.time() == pytest.approx(86_400, abs=60)
    server.app.state.services.stores.update(stores[0], {"last_active_at": 1})
    assert client.vector_stores.retrieve(stores[0]).status == "expired"
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.search(stores[0], query="x")
    kept = client.vector_stores.update(stores[0], expires_after=None)
    assert (kept.expires_after, kept.expires_at, kept.status) == (None, None, "completed")
    assert (kept.name, kept.metadata) == ("new", {"a": "b"})
    assert client.vector_stores.search(stores[0], query="x").data == []
    bare = client.vector_stores.update(stores[0], name=None, metadata=None)
    assert (bare.name, bare.metadata) == ("", {})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"chunking_strategy": {"type": "static", "static": {}}}, "chunking_strategy.type"),
        ("", {"file_ids": ["file-none"]}, "file_id"),
        ("", {"metadata": {"k": 1}}, "metadata.k"),
        ("", {"colour": "red"}, "colour"),
        ("/{id}/search", {}, "query"),
        ("/{id}/search", {"query": "x", "rewrite_query": True}, "rewrite_query"),
        ("/{id}/search", {"query": "x", "max_num_results": 51}, "max_num_results"),
        ("/{id}/search", {"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters"),
        ("/{id}/search", {"query": "x", "ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
        ("/{id}/files", {"file_id": "file-none"}, "file_id"),
        ("/{id}/files", {"file_id": "file-none", "attributes": {"a": [1]}}, None),
        ("/{id}/file_batches", {}, "file_ids"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    serve: Serve, path: str, body: dict[str, Any], param: str | None
) -> None:
    server = serve()
    store = server.client().vector_stores.create().id
    answer = httpx.post(f"{server.url}/v1/vector_stores{path.format(id=store)}", json=body)
    assert answer.status_code in (400, 404)
    found = answer.json()["error"]["param"]
    assert found == param if param else found.startswith("attributes.a")


def test_attributes_are_cleared_by_null_and_by_nothing_else(serve: Serve) -> None:
    server = serve()
    client = server.client()
    server.app.state.services.jobs._start = lambda job: None
    store, file = client.vector_stores.create().id, upload(client, "a.txt", CAFE)
    client.vector_stores.files.create(store, file_id=file, attributes={"a": 1})
    refused = httpx.post(f"{server.url}/v1/vector_stores/{store}/files/{file}", json={})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "attributes")
    assert client.vector_stores.files.retrieve(file, vector_store_id=store).attributes == {"a": 1}
    assert client.vector_stores.files.update(file, vector_store_id=store, attributes=None).attributes == {}


def test_batch_that_is_cancelled_is_not_indexed(serve: Serve) -> None:
    server = serve()
    client = server.client()
    store = client.vector_stores.create().id
    jobs = server.app.state.services.jobs
    jobs._start = lambda job: None  # nothing starts: the batch surely waits
    batch = client.vector_stores.file_batches.create(store, file_ids=[upload(client, "a.txt", CAFE)])
    cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 1)
    assert client.vector_stores.retrieve(store).status == "completed"


def test_key_of_some_use_cases_sees_no_store_but_those_named(serve: Serve, workspace: Workspace) -> None:
    server = serve()
    client = server.client()
    mine, other = (client.vector_stores.create().id for _ in range(2))
    _, secret = KeyStore(workspace.path).create(scopes=["chat", "ingest"], use_cases=[mine])
    limited = server.client(api_key=secret)
    assert [store.id for store in limited.vector_stores.list()] == [mine]
    assert limited.vector_stores.search(mine, query="x").data == []
    with pytest.raises(openai.NotFoundError):
        limited.vector_stores.search(other, query="x")


@pytest.mark.parametrize("route", ["base", "rag"])
def test_answer_rests_on_a_store_and_not_on_the_use_cases_own_documents(
    serve: Serve, workspace: Workspace, route: str
) -> None:
    declare(workspace, "faq", route=route)
    server = serve()
    client = server.client()
    store = client.vector_stores.create().id
    asked: list[Any] = []

    def search(store: str, texts: Any, top_k: int, **options: Any) -> list[Result]:
        asked.append((store, texts, top_k, options))
        return [Result("file-1", "prices.md", 0.5, {"topic": "money"}, "A ticket costs twelve euros.")]

    server.app.state.services.search.search = search
    tool: Any = {"type": "file_search", "vector_store_ids": [store], "max_num_results": 2}
    tool |= {"filters": {"type": "eq", "key": "topic", "value": "money"}, "ranking_options": {"score_threshold": 0.1}}
    options: Any = {"tools": [tool], "include": ["file_search_call.results"]}
    answer = client.responses.create(model="faq", input="What is the price?", **options)
    assert "twelve euros" in answer.output_text
    found, message = answer.output
    assert found.type == "file_search_call"
    assert [(one.file_id, one.filename, one.attributes) for one in found.results or ()] == [
        ("file-1", "prices.md", {"topic": "money", "cited": True})
    ]
    assert message.type == "message"
    assert {note.file_id for note in message.content[0].annotations} == {"file-1"}  # type: ignore[union-attr]
    wanted = {"filter": parse_filter(tool["filters"]), "tenant": {}, "min_score": 0.1}
    assert asked == [(store, ["What is the price?"], 2, wanted)]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"vector_store_ids": ["vs_none"]}, "vector_store_id"),
        ({"vector_store_ids": ["faq"], "max_num_results": 2}, "tools[0]"),
        ({"vector_store_ids": ["{store}"], "filters": {"type": "like"}}, "filters"),
    ],
)
def test_search_that_cannot_be_made_is_refused(
    serve: Serve, workspace: Workspace, tool: dict[str, Any], param: str
) -> None:
    declare(workspace, "faq")
    server = serve()
    store = server.client().vector_stores.create().id
    tool = {"type": "file_search", **tool}
    tool["vector_store_ids"] = [id.format(store=store) for id in tool["vector_store_ids"]]
    body = {"model": "faq", "input": "x", "tools": [tool]}
    answer = httpx.post(f"{server.url}/v1/responses", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def store_file(id: str, **attributes: Any) -> StoreFile:
    return StoreFile(id, f"{id}.md", "vs", None, attributes, "completed", None, 1, 0)


def test_tenant_finds_files_marked_as_theirs_and_rows_marked_so_in_files_that_are_not() -> None:
    files = {file.id: file for file in (store_file("a", org="acme"), store_file("b", org="other"), store_file("c"))}
    condition = _condition(files, None, {"org": "acme"})
    seen = {
        (id, row.get("org"))
        for id in files
        for row in ({}, {"org": "acme"}, {"org": "other"})
        if matches(condition, {"file": f"docs/{id}/{id}.md", **row})
    }
    # What a row of file b says of itself does not overrule the file's attribute.
    assert seen == {("a", None), ("a", "acme"), ("a", "other"), ("c", "acme")}

"""Uploads: whole or not at all, kept by content, read back byte for byte; and the job of any kind over a restart."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.workspace import Workspace
from serve.files import EmptyFile, Files, safe_name
from serve.listing import listing
from serve.services import Options
from serve.state import MIGRATIONS, State
from tests.serve.conftest import Server, wait_until

Serve = Callable[..., Server]


@pytest.fixture
def state(workspace: Workspace) -> Any:
    state = State(workspace.path)
    yield state
    state.close()


def test_file_comes_back_byte_for_byte(serve: Serve) -> None:
    client = serve().client()
    data = bytes(range(256)) * 9000
    made = client.files.create(file=("data.bin", data), purpose="user_data")
    assert (made.filename, made.bytes, made.purpose) == ("data.bin", len(data), "user_data")
    assert client.files.content(made.id).read() == data
    assert client.files.retrieve(made.id) == made
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(made.id)
    assert gone.value.param == "file_id"


def test_list_pages_through_every_file_once_in_either_order(serve: Serve) -> None:
    client = serve().client()
    ids = [client.files.create(file=(f"{n}.txt", b"x%d" % n), purpose="assistants").id for n in range(5)]
    client.files.create(file=("t.jsonl", b"{}"), purpose="fine-tune")
    assert [file.id for file in client.files.list(purpose="assistants", limit=2, order="asc")] == ids
    assert [file.id for file in client.files.list(purpose="assistants", limit=2)] == ids[::-1]
    page = client.files.list(purpose="assistants", limit=2, order="asc", after=ids[2])
    assert ([file.id for file in page.data], page.has_more) == (ids[3:], False)


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "vision"}, {"file": ("a", b"x")}, "purpose"),
        ({}, {"file": ("a", b"x")}, "purpose"),
        ({"purpose": "assistants"}, {"other": ("a", b"x")}, "other"),
        ({"purpose": "assistants", "file": "text"}, {}, "file"),
        ({"purpose": "assistants"}, {"file": ("a", b"")}, "file"),
        ({"purpose": "assistants", "expires_after[seconds]": "5"}, {"file": ("a", b"x")}, "expires_after"),
    ],
)
def test_what_cannot_be_kept_is_400_and_names_its_field(
    serve: Serve, fields: dict[str, str], files: dict[str, Any], param: str
) -> None:
    server = serve()
    answer = httpx.post(f"{server.url}/v1/files", data=fields, files=files or None)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert server.client().files.list().data == []


def test_other_bodies_are_400(serve: Serve) -> None:
    url = f"{serve().url}/v1/files"
    assert httpx.post(url, json={"purpose": "assistants"}).status_code == 400
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert httpx.post(url, content=b"--y\r\nrubbish", headers=broken).status_code == 400
    assert httpx.get(url, params={"page": 2}).json()["error"]["param"] == "page"
    assert httpx.get(url, params={"after": "file-none"}).json()["error"]["param"] == "after"


def test_file_may_be_larger_than_other_bodies_but_has_a_limit(serve: Serve) -> None:
    server = serve(max_body_bytes=1000, options=Options(max_file_bytes=200_000))
    client = server.client()
    assert client.files.create(file=("a.txt", b"x" * 150_000), purpose="assistants").bytes == 150_000
    for size in (200_001, 400_000):
        with pytest.raises(openai.APIStatusError) as refused:
            client.files.create(file=("a.txt", b"x" * size), purpose="assistants")
        assert refused.value.status_code == 413


def test_equal_bytes_are_kept_once_until_the_last_upload_of_them_is_deleted(state: State) -> None:
    files = Files(state)
    one, two = (files.add(io.BytesIO(b"same"), f"{n}.txt", "assistants") for n in range(2))
    assert files.path(one) == files.path(two)
    files.delete(one.id)
    assert b"".join(files.read(two)) == b"same"
    files.delete(two.id)
    assert list(files.folder.iterdir()) == []
    assert not files.delete(two.id)


def test_broken_upload_leaves_nothing(state: State) -> None:
    class Torn(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the client hung up")

    files = Files(state)
    with pytest.raises(OSError, match="hung up"):
        files.add(Torn(b"x"), "a.txt", "assistants")
    with pytest.raises(EmptyFile):
        files.add(io.BytesIO(b""), "a.txt", "assistants")
    assert list(files.folder.iterdir()) == []
    assert files.all() == []


def test_start_removes_what_a_killed_server_left_and_keeps_the_rest(state: State) -> None:
    files = Files(state)
    kept = files.add(io.BytesIO(b"kept"), "a.txt", "assistants")
    (files.folder / ".half.tmp").write_bytes(b"ha")
    (files.folder / ("0" * 64)).write_bytes(b"no row names it")
    assert b"".join(Files(state).read(kept)) == b"kept"
    assert [path.name for path in files.folder.iterdir()] == [kept.sha256]


@given(st.text(max_size=300))
def test_any_filename_becomes_a_safe_one(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert safe == Path(safe).name
    assert not safe.startswith(".")
    assert len(safe.encode()) <= 200
    assert safe_name(safe) == safe


def test_suffix_of_a_long_filename_is_kept() -> None:
    assert safe_name("é" * 300 + ".pdf").endswith("é.pdf")
    assert safe_name("../../etc/passwd") == "passwd"
    assert safe_name("C:\\docs\\a.txt") == "a.txt"


@given(st.integers(0, 30), st.integers(1, 10), st.sampled_from(["asc", "desc"]))
def test_pages_after_each_other_are_the_whole_list(count: int, limit: int, order: Any) -> None:
    items = [{"id": f"i{n}"} for n in range(count)]
    seen, after = [], None
    while True:
        page = listing(items, limit=limit, order=order, after=after)
        seen += page["data"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == (items if order == "asc" else items[::-1])


def test_page_before_a_cursor_ends_next_to_it() -> None:
    items = [{"id": f"i{n}"} for n in range(6)]
    page = listing(items, limit=2, order="asc", before="i4")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (["i2", "i3"], True)


def test_page_between_two_cursors_says_whether_more_lies_between_them() -> None:
    items = [{"id": f"i{n}"} for n in range(6)]
    whole = listing(items, limit=5, order="asc", after="i1", before="i4")
    first = listing(items, limit=1, order="asc", after="i1", before="i4")
    assert ([item["id"] for item in whole["data"]], whole["has_more"]) == (["i2", "i3"], False)
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (["i2"], True)


def test_state_of_a_newer_version_is_refused_and_of_this_one_reopened(workspace: Workspace, state: State) -> None:
    again = State(workspace.path)
    version = again.one("PRAGMA user_version")
    again.close()
    assert version is not None
    assert version[0] == len(MIGRATIONS)
    with state.change() as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(Exception, match="upgrade Tunefork"):
        State(workspace.path)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("application/json", b"{}"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 9000 + b'"\r\n\r\n',
        ),
    ],
)
def test_body_that_is_no_multipart_is_told_so(serve: Serve, content_type: str, body: bytes) -> None:
    answer = httpx.post(f"{serve().url}/v1/files", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert "multipart/form-data" in answer.json()["error"]["message"]


def test_client_that_leaves_in_mid_upload_leaves_nothing_and_is_no_error_of_ours(
    serve: Serve, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    url = httpx.URL(server.url)
    head = (
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\ncontent-type: multipart/form-data; boundary=x"
    )
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    with caplog.at_level(logging.INFO, "tunefork"):
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall(head + b"\r\n\r\n" + part)
        wait_until(lambda: "the client left" in caplog.text)
    assert "Traceback" not in caplog.text
    assert list((workspace.path / "server" / "files").iterdir()) == []

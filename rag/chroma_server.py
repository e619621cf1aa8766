"""Versions in a Chroma server (`chroma run`): one collection each, under a name that is recorded in the version's folder.

The server is asked for its collections only: texts, words and vectors also stand in
the version's plain files, as with the embedded store. Several processes may have one
version open; it is dropped when none has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from core.errors import ArtifactError, EngineUnavailable
from core.files import read_json, write_json

RECORD = "chroma.json"


def url_of(version: Path) -> str | None:
    """The server that holds a version's collection; None when it is in the version's folder."""
    return _recorded(version)[0] if (version / RECORD).is_file() else None


def create(version: Path, url: str, index: Path, configuration: Any) -> Any:
    """A new, empty collection, recorded in the folder `version` of the index `index`.

    Raises:
        EngineUnavailable: the server cannot be reached.
    """
    name = f"{_prefix(index)}{token_hex(8)}"
    with reaching(url):
        # The record first: a collection that nothing names would stay for good.
        write_json(version / RECORD, {"url": url, "collection": name})
        return _client(url).create_collection(name, embedding_function=None, configuration=configuration)


def connect(version: Path) -> Any:
    """The collection of a finished version.

    Raises:
        EngineUnavailable: the server cannot be reached.
        ArtifactError: it has no such collection.
    """
    from chromadb.errors import NotFoundError

    url, name = _recorded(version)
    try:
        with reaching(url):
            return _client(url).get_collection(name, embedding_function=None)
    except NotFoundError as exc:
        raise ArtifactError(f"{url}: the server has no collection {name!r}") from exc


def drop(version: Path) -> None:
    """Remove a version's collection from its server, if it has one there.

    Raises:
        EngineUnavailable: the server cannot be reached.
    """
    from chromadb.errors import NotFoundError

    if (version / RECORD).is_file():
        url, name = _recorded(version)
        with reaching(url), suppress(NotFoundError):
            _client(url).delete_collection(name)


def sweep(url: str, index: Path) -> None:
    """Remove the collections that killed ingests of the index `index` left on the server."""
    _sweep(url, index, kept=frozenset(_recorded(record.parent)[1] for record in index.glob(f"v*/{RECORD}")))


def _sweep(url: str, index: Path, kept: frozenset[str]) -> None:
    with reaching(url):
        client = _client(url)
        for collection in client.list_collections():
            if collection.name.startswith(_prefix(index)) and collection.name not in kept:
                client.delete_collection(collection.name)


def drop_all(index: Path, declared: str | None) -> None:
    """Remove every collection of the index `index`: from the servers that its versions name, and from the declared one.

    Raises:
        EngineUnavailable: a server cannot be reached. It is the same to call again.
    """
    urls = {_recorded(record.parent)[0] for record in index.glob(f"*v*/{RECORD}")}
    for url in sorted(urls | ({declared} if declared else set())):
        _sweep(url, index, kept=frozenset())


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """A dead server as one line. Chroma's client says it in several ways."""
    import httpx

    try:
        yield
    except httpx.TransportError as exc:
        raise EngineUnavailable(f"{url}: the Chroma server cannot be reached ({exc})") from exc
    except ValueError as exc:
        if "Could not connect" not in str(exc):
            raise
        raise EngineUnavailable(f"{url}: there is no Chroma server; start one: chroma run --path FOLDER") from exc


def _prefix(index: Path) -> str:
    """Of every collection of this index: no other use case or workspace has it."""
    return f"tunefork-{sha256(str(index.absolute()).encode()).hexdigest()[:16]}-"


def _recorded(version: Path) -> tuple[str, str]:
    """(url, collection)"""
    record = read_json(version / RECORD)
    return record["url"], record["collection"]


@lru_cache(maxsize=8)
def _client(url: str) -> Any:
    """One a server, kept: Chroma's client never closes its connections, so many would pile up."""
    import chromadb
    from chromadb.config import Settings

    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return chromadb.HttpClient(
        host=parts.hostname or "",
        port=parts.port or (443 if secure else 80),
        ssl=secure,
        settings=Settings(anonymized_telemetry=False),
    )

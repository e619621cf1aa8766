"""What an index version was made from and with: origin.json, checked by whoever opens it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ArtifactError
from core.files import read_json, sha256_file, write_json
from rag.readers import VERSION as READER_VERSION

INDEX_VERSION = 4
"""Raise it when chunks are cut, words indexed or vectors stored otherwise: older indexes are then made anew."""


class FileRecord(BaseModel):
    """One file of an index: what it held when it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    path: str
    sha256: str | None
    """None: it could not be read at all."""
    documents: int = 0
    failed: str | None = None
    """Why it is not in the index."""


class Origin(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    tunefork_version: str
    reader_version: int
    index_version: int
    embedding_model: str
    embedding_fingerprint: str
    dimensions: int
    store: str = ""
    """URL of the Chroma server that has the collection; "" where it is in the version's folder."""
    language: str
    """What the lexical index stems for; "" is none."""
    chunking: dict[str, int]
    chunk_tokens: int | None = None
    """What the use case declared."""
    files: int
    documents: int
    empty_documents: int
    passages: int
    content_hash: str
    """Over the ids and hashes of all files: equal content, equal hash."""
    created: str
    parts: dict[str, str] = {}
    """SHA-256 of each file of the version, by its path in it; Chroma's own and this one excepted."""


def content_hash(files: Sequence[FileRecord]) -> str:
    return sha256("\n".join(f"{file.id}\t{file.sha256}" for file in files).encode()).hexdigest()


def parts_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a version, for `Origin.parts`."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: sha256_file(folder / name) for name in names if name != "origin.json" and not name.startswith("chroma-")
    }


def tunefork_version() -> str:
    return version("tunefork")


def save_origin(folder: Path, origin: Origin) -> None:
    write_json(folder / "origin.json", origin.model_dump(mode="json"))


def load_origin(folder: Path) -> Origin:
    """Raises ArtifactError when there is none, or it is from a newer Tunefork."""
    try:
        return Origin.model_validate(read_json(folder / "origin.json"))
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder}: not an index (no origin.json)") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{folder}/origin.json: {where}: {first['msg']}") from exc


def made_alike(origin: Origin, fingerprint: str, chunk_tokens: int | None) -> bool:
    """Whether this Tunefork with the model of `fingerprint` would make the same passages from the same files."""
    made = (origin.reader_version, origin.index_version, origin.embedding_fingerprint, origin.chunk_tokens)
    return made == (READER_VERSION, INDEX_VERSION, fingerprint, chunk_tokens)

"""What is served under a name, and how one state of it is told from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.engines.base import Engine
from core.errors import UnknownName
from core.models import remote
from core.remedy import Remedy, load_remedy
from core.workspace import UseCaseFolder
from serve.compose import Variant

Stamp = tuple[tuple[int, int, int] | None, ...]

Kind = Variant | Literal["canary"]
"""What stands behind the colon of a served name."""


class UnknownModel(UnknownName):
    """No served name of that kind."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__("model", name, known, hint="(/v1/models lists all)")
        self.name = name


@dataclass(frozen=True)
class Entry:
    """One served name, as listed."""

    name: str
    use_case: str | None
    """None for a base model."""
    variant: Kind
    route: str
    base_model: str
    created: int
    """Unix time of what stands behind the name."""
    arm: str = ""
    """Of a canary: what it tries."""

    @property
    def public_base_model(self) -> str:
        return public_name(self.base_model)


@dataclass(frozen=True)
class Served:
    """What answers for a name."""

    name: str
    engine: Engine
    max_tokens: int
    """Length of an answer when the client names none."""
    fingerprint: str
    """Changes when anything behind the name does."""
    use_case: str = ""
    """"" for a base model."""
    base_model: str = ""
    """As clients may see it."""
    engine_kind: str = ""
    """What runs the base model: transformers, vllm, remote ...; head where a classification head answers."""
    route: str = "base"
    arm: str = ""
    """What was drawn for this request, while a canary is under way."""


def present_remedy(folder: UseCaseFolder) -> Remedy:
    """What was built for a use case; before the first `build`, the bare base model as declared."""
    remedy = load_remedy(folder.remedy_path)
    if remedy is not None:
        return remedy
    settings = folder.settings()
    declared: dict[str, Any] = {} if settings.max_tokens is None else {"max_tokens": settings.max_tokens}
    return Remedy(
        use_case=settings.name,
        route="undecided",
        base_model=settings.base_model,
        embedding_model=settings.embedding_model,
        instruction=settings.instruction,
        top_k=settings.top_k,
        **declared,
    )


def public_name(base_model: str) -> str:
    """What a base model is called in the API: as its user named it, without the address or folders of this machine."""
    elsewhere = remote(base_model)
    if elsewhere is not None:
        return elsewhere.model
    path = Path(base_model).expanduser()
    return path.name if path.is_absolute() or base_model.startswith((".", "~")) or path.is_dir() else base_model


def stamp_of(folder: UseCaseFolder) -> Stamp:
    """Changes when what is in force does: each of these files is replaced as a whole, so it gets a new inode."""
    files = (
        folder.path / "use_case.toml",
        folder.remedy_path,
        folder.index.folder / "active",
        folder.adapters.folder / "active",
    )
    return tuple(file_stamp(path) for path in files)


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def fingerprint_of(*parts: str) -> str:
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

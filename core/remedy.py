"""What was built for a use case: the file that `build` writes and the server serves from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ArtifactError, ConfigError
from core.files import read_json, write_json, write_text
from core.search_settings import Place

Route = Literal["base", "prompt", "few-shot", "rag", "tune", "rag+tune", "none", "undecided"]
ROUTES: tuple[Route, ...] = get_args(Route)
Method = Literal["lora", "head", "full"]


class Remedy(BaseModel):
    """One remedy, complete: a server needs this file and the versions it names, nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    use_case: str
    route: Route
    """`none` and `undecided` are served by the base model."""
    method: Method | None = None
    base_model: str
    embedding_model: str
    instruction: str = ""
    """The use case's system prompt."""
    answer_format: str = ""
    """The answer-format line of the `prompt` arm; added to the instruction where the route's arm had it."""
    demonstrations: tuple[tuple[str, str], ...] = ()
    """Few-shot examples as (input, output), the same for every question."""
    demonstrations_version: str | None = None
    """Folder of the examples that are chosen for each question instead, by likeness; see rag.demonstrations."""
    shots: int = 0
    """How many of those stand in a prompt."""
    context: Place | None = None
    """Where the measured arm had the context: the passages (`rag`), or what a message brings along (`prompt`).
    None: passages stand as `[grounding]` says, a message stays as it is."""
    top_k: int = 4
    index_version: str | None = None
    adapter_version: str | None = None
    max_tokens: int = 256
    """Length of an answer when the client names none."""
    verdict_run: str | None = None
    """Run folder whose verdict this follows."""


def save_remedy(path: Path, remedy: Remedy) -> None:
    """Put `remedy` in force: one atomic replace. It is kept as the next version beside it, for `roll_back`."""
    history = remedies(path)
    if not history and path.exists():  # built before versions were kept
        write_json(_version(path, 1), read_json(path))
        history = remedies(path)
    number = int(history[-1][1:]) + 1 if history else 1
    write_json(_version(path, number), remedy.model_dump(mode="json"))
    _put_in_force(path, f"v{number:04d}")


def remedies(path: Path) -> list[str]:
    """Versions of the remedy in `path` that were in force at some time, oldest first."""
    return sorted(p.stem for p in path.with_name(FOLDER).glob("v[0-9]*.json"))


def in_force(path: Path) -> str | None:
    """The version in force; None where it is none of those that are kept."""
    try:
        return (path.with_name(FOLDER) / "active").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def roll_back(path: Path, version: str | None = None) -> str:
    """Put an earlier remedy in force again; returns its version.

    Args:
        version: one of `remedies`; the one before that in force when None.

    Raises:
        ConfigError: there is no such version, or none before.
    """
    version = chosen_version(remedies(path), in_force(path), version)
    _put_in_force(path, version)
    return version


def chosen_version(kept: list[str], active: str | None, version: str | None) -> str:
    """`version`, or the one before `active` when None. Raises ConfigError when it is not among `kept`."""
    if version is None:
        before = kept[: kept.index(active)] if active in kept else []
        if not before:
            raise ConfigError(
                f"there is no version before {active or 'the one in force'}; kept: {', '.join(kept) or 'none'}"
            )
        return before[-1]
    if version not in kept:
        raise ConfigError(f"there is no version {version!r}; kept: {', '.join(kept) or 'none'}")
    return version


FOLDER = "remedies"


def _version(path: Path, number: int) -> Path:
    return path.with_name(FOLDER) / f"v{number:04d}.json"


def _put_in_force(path: Path, version: str) -> None:
    write_json(path, read_json(path.with_name(FOLDER) / f"{version}.json"))
    write_text(path.with_name(FOLDER) / "active", version + "\n")


def load_remedy(path: Path) -> Remedy | None:
    """The remedy in force; None when none was built.

    Raises:
        ArtifactError: the file is damaged or from a newer Tunefork.
    """
    return _read(path) if path.exists() else None


def load_version(path: Path, version: str) -> Remedy:
    """One of `remedies`, in force or not.

    Raises:
        ArtifactError: it is gone, damaged or from a newer Tunefork.
    """
    file = path.with_name(FOLDER) / f"{version}.json"
    if not file.exists():
        raise ArtifactError(f"{file}: gone; kept: {', '.join(remedies(path)) or 'none'}")
    return _read(file)


def _read(file: Path) -> Remedy:
    try:
        return Remedy.model_validate(read_json(file))
    except ValidationError as exc:
        raise ArtifactError(f"{file}: {exc.errors()[0]['msg']}; run `tunefork build` again") from exc

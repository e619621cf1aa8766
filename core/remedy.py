"""What was built for a use case: the file that `build` writes and the server serves from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ArtifactError
from core.files import read_json, write_json

Route = Literal["base", "prompt", "few-shot", "rag", "tune", "rag+tune", "none", "undecided"]
ROUTES: tuple[Route, ...] = get_args(Route)
Method = Literal["lora", "head"]


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
    top_k: int = 4
    index_version: str | None = None
    adapter_version: str | None = None
    max_tokens: int = 256
    """Length of an answer when the client names none."""
    verdict_run: str | None = None
    """Run folder whose verdict this follows."""


def save_remedy(path: Path, remedy: Remedy) -> None:
    """Put `remedy` in force: one atomic replace."""
    write_json(path, remedy.model_dump(mode="json"))


def load_remedy(path: Path) -> Remedy | None:
    """The remedy in force; None when none was built.

    Raises:
        ArtifactError: the file is damaged or from a newer Tunefork.
    """
    if not path.exists():
        return None
    try:
        return Remedy.model_validate(read_json(path))
    except ValidationError as exc:
        raise ArtifactError(f"{path}: {exc.errors()[0]['msg']}; run `tunefork build` again") from exc

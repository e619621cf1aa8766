"""From a remedy to the engine that answers for it: pure composition over parts that are opened elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.engines.base import Engine
from core.engines.prompted import PromptedEngine
from core.errors import ArtifactError
from core.files import read_json
from core.prompts import Demonstration
from core.remedy import Method, Remedy
from core.workspace import Versions

Variant = Literal["", "rag", "tune", "base"]
"""What stands behind the colon of a served name; "" is what the verdict built."""


class Parts(Protocol):
    """Opens what a composition is made of. What it opens is closed by its owner, not by the composition."""

    def base(self, model: str) -> Engine: ...

    def grounded(self, engine: Engine, index: Path, top_k: int) -> Engine:
        """`engine` answering from the passages of the index version in the folder `index`."""
        ...

    def head(self, adapter: Path) -> Engine:
        """The classification head in the version folder `adapter`."""
        ...


@dataclass(frozen=True)
class Plan:
    """Which parts a name is made of. Made without opening anything."""

    base_model: str
    instruction: str = ""
    answer_format: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    adapter: Path | None = None
    head: bool = False
    """`adapter` is a classification head, which answers without the base model."""
    index: Path | None = None
    top_k: int = 0


def plan(remedy: Remedy, variant: Variant, index: Versions, adapters: Versions) -> Plan:
    """What `NAME` (variant "") or `NAME:variant` is made of.

    Raises:
        ArtifactError: a version that it needs is gone.
    """
    if variant == "base":
        return Plan(remedy.base_model, remedy.instruction)
    route = remedy.route if variant == "" else variant
    adapter = _version(adapters, remedy.adapter_version if variant == "" else None) if "tune" in route else None
    head = adapter is not None and _method(adapter) == "head"
    # Documents are served as last ingested, whatever the remedy was built on: they may change without a new verdict.
    folder = _version(index, None) if "rag" in route else None
    shaped = route in ("prompt", "few-shot", "rag")
    few_shot = route == "few-shot"
    return Plan(
        remedy.base_model,
        remedy.instruction,
        answer_format=remedy.answer_format if shaped else "",
        demonstrations=tuple(Demonstration(i, o) for i, o in remedy.demonstrations) if few_shot else (),
        adapter=adapter,
        head=head,
        index=folder,
        top_k=remedy.top_k if folder is not None else 0,
    )


def compose(plan: Plan, parts: Parts) -> Engine:
    """The engine that `plan` describes."""
    if plan.head:
        assert plan.adapter is not None
        engine = parts.head(plan.adapter)
    else:
        engine = PromptedEngine(
            parts.base(plan.base_model),
            instruction=plan.instruction,
            answer_format=plan.answer_format,
            demonstrations=plan.demonstrations,
            adapter=None if plan.adapter is None else str(plan.adapter),
        )
    return engine if plan.index is None else parts.grounded(engine, plan.index, plan.top_k)


def _version(versions: Versions, name: str | None) -> Path:
    """Folder of the version `name`; of the one in force when the remedy names none."""
    folder = versions.active() if name is None else versions.folder / name
    if folder is None or not folder.is_dir():
        raise ArtifactError(f"{versions.folder}: there is no version {name or 'in force'}; build it again")
    return folder


def _method(adapter: Path) -> Method:
    """What kind of artifact a version under adapters/ is, by its own word."""
    try:
        origin = read_json(adapter / "origin.json")
    except FileNotFoundError as exc:
        raise ArtifactError(f"{adapter}: has no origin.json; build it again") from exc
    method = origin.get("method") if isinstance(origin, dict) else None
    if method not in ("lora", "head"):
        raise ArtifactError(f"{adapter / 'origin.json'}: method is {method!r}, not lora or head; build it again")
    return "head" if method == "head" else "lora"

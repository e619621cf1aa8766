"""From a remedy to the engine that answers for it: pure composition over parts that are opened elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.engines.base import Engine
from core.engines.prompted import Choose, PromptedEngine
from core.errors import ArtifactError
from core.prompts import Demonstration
from core.remedy import Remedy
from core.search_settings import Place
from core.workspace import Versions
from tuning.adapters import load_origin

Variant = Literal["", "rag", "tune", "base"]
"""What stands behind the colon of a served name; "" is what the verdict built."""


class Parts(Protocol):
    """Opens what a composition is made of. What it opens is closed by its owner, not by the composition."""

    def base(self, model: str) -> Engine: ...

    def grounded(self, engine: Engine, index: Path, top_k: int, context: Place | None) -> Engine:
        """`engine` answering from the passages of the index version in the folder `index`, which stand at `context`."""
        ...

    def check_adapter(self, adapter: Path, base_model: str) -> None:
        """Raises ArtifactError when the adapter in the version folder was trained on another base model."""
        ...

    def demonstrations(self, folder: Path, k: int) -> Choose:
        """Chooses the `k` examples of `folder` that are most like a question."""
        ...

    def head(self, adapter: Path) -> Engine:
        """The classification head in the version folder `adapter`."""
        ...

    def model(self, folder: Path) -> Engine:
        """The fully fine-tuned model in the version folder `folder`."""
        ...


@dataclass(frozen=True)
class Plan:
    """Which parts a name is made of. Made without opening anything."""

    base_model: str
    instruction: str = ""
    answer_format: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    examples: Path | None = None
    """Examples to choose `shots` of for each question, in place of the fixed demonstrations."""
    shots: int = 0
    adapter: Path | None = None
    head: bool = False
    """`adapter` is a classification head, which answers without the base model."""
    model: Path | None = None
    """A fully fine-tuned model, which answers in the base model's place."""
    index: Path | None = None
    top_k: int = 0
    context: Place | None = None
    """Where passages, or without an index what a message brings along, are put; None: see `Remedy.context`."""


def plan(
    remedy: Remedy, variant: Variant, index: Versions, adapters: Versions, demonstrations: Path | None = None
) -> Plan:
    """What `NAME` (variant "") or `NAME:variant` is made of.

    Raises:
        ArtifactError: a version that it needs is gone or damaged.
    """
    if variant == "base":
        return Plan(remedy.base_model, remedy.instruction)
    route = remedy.route if variant == "" else variant
    adapter = _version(adapters, remedy.adapter_version if variant == "" else None) if "tune" in route else None
    origin = None if adapter is None else load_origin(adapter)
    full = origin is not None and origin.method == "full"
    # Documents are served as last ingested, whatever the remedy was built on: they may change without a new verdict.
    folder = _version(index, None) if "rag" in route else None
    shaped = route in ("prompt", "few-shot", "rag")
    few_shot = route == "few-shot"
    examples = demonstrations if few_shot and remedy.demonstrations_version is not None else None
    return Plan(
        remedy.base_model,
        # An adapter answers well to the system prompt it was trained with, which may differ from today's.
        remedy.instruction if origin is None else origin.instruction,
        answer_format=remedy.answer_format if shaped else "",
        demonstrations=tuple(Demonstration(i, o) for i, o in remedy.demonstrations) if few_shot else (),
        examples=None if examples is None else examples / str(remedy.demonstrations_version),
        shots=0 if examples is None else remedy.shots,
        adapter=None if full else adapter,
        head=origin is not None and origin.method == "head",
        model=adapter if full else None,
        index=folder,
        top_k=remedy.top_k if folder is not None else 0,
        context=remedy.context if route == remedy.route else None,
    )


def compose(plan: Plan, parts: Parts) -> Engine:
    """The engine that `plan` describes."""
    if plan.head:
        assert plan.adapter is not None
        engine = parts.head(plan.adapter)
    else:
        if plan.adapter is not None:
            parts.check_adapter(plan.adapter, plan.base_model)
        engine = PromptedEngine(
            parts.base(plan.base_model) if plan.model is None else parts.model(plan.model),
            instruction=plan.instruction,
            answer_format=plan.answer_format,
            demonstrations=plan.demonstrations,
            choose=None if plan.examples is None else parts.demonstrations(plan.examples, plan.shots),
            adapter=None if plan.adapter is None else str(plan.adapter),
            context=plan.context if plan.index is None else None,
        )
    return engine if plan.index is None else parts.grounded(engine, plan.index, plan.top_k, plan.context)


def _version(versions: Versions, name: str | None) -> Path:
    """Folder of the version `name`; of the one in force when the remedy names none."""
    folder = versions.active() if name is None else versions.folder / name
    if folder is None or not folder.is_dir():
        raise ArtifactError(f"{versions.folder}: there is no version {name or 'in force'}; build it again")
    return folder

"""Opens what a use case's engine is made of: base engines, indexes, adapters, heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.engines.base import Engine
from core.engines.prompted import Choose
from core.errors import ArtifactError
from core.models import local_folder, remote
from core.search_settings import Place
from core.workspace import UseCaseFolder, Workspace
from serve.asked import Watched
from serve.holding import Pool

OpenBase = Callable[[str], Engine]


class Moved(Exception):
    """Another version came into force between looking and opening."""


@dataclass(frozen=True)
class Shared:
    """Parts that several names have in common, by version folder."""

    retrievers: Pool[Any] = field(default_factory=Pool)
    heads: Pool[Engine] = field(default_factory=Pool)
    models: Pool[Engine] = field(default_factory=Pool)
    demonstrations: Pool[Any] = field(default_factory=Pool)


class WorkspaceParts:
    """The parts of one composition, and which of them to close with it. A `serve.compose.Parts`."""

    def __init__(
        self, workspace: Workspace, folder: UseCaseFolder, base: OpenBase, shared: Shared, open_: OpenBase
    ) -> None:
        """
        Args:
            base: the engine of a base model, which all use cases share; never closed here.
            open_: opens an engine anew.
        """
        self._workspace = workspace
        self._folder = folder
        self._base = base
        self._shared = shared
        self._open = open_
        self._closers: list[Callable[[], None]] = []

    def base(self, model: str) -> Engine:
        return self._base(model)

    def grounded(self, engine: Engine, index: Path, top_k: int, context: Place | None) -> Engine:
        """Raises Moved when `index` is no longer in force."""
        from rag.engine import RagEngine
        from rag.open import open_retriever
        from rag.origin import load_origin

        # The index knows its embedding model; the declaration may name another one by now, for the next ingest.
        settings = self._folder.settings().model_copy(update={"embedding_model": load_origin(index).embedding_model})

        def open_() -> tuple[Any, Callable[[], None]]:
            retriever = open_retriever(self._folder, settings, self._workspace)
            if retriever.version != index.name:
                retriever.close()
                raise Moved
            return retriever, retriever.close

        held = self._shared.retrievers.hold(_identity(index), open_)
        self._closers.append(held.release)
        # The open index may be shared with an answer that is still made by older settings.
        grounding = settings.grounding.placed(context)
        return RagEngine(engine, Watched(held.value.using(settings.retrieval)), top_k, grounding)

    def check_adapter(self, adapter: Path, base_model: str) -> None:
        """Raises ArtifactError when the adapter was trained on another base model."""
        from tuning.adapters import check_base

        if remote(base_model) is None:
            check_base(adapter, base_model, local_folder(base_model, self._workspace.models))

    def head(self, adapter: Path) -> Engine:
        from tuning.head_engine import load_head

        def open_() -> tuple[Engine, Callable[[], None]]:
            engine = load_head(adapter, self._workspace.models)
            return engine, engine.close

        held = self._shared.heads.hold(_identity(adapter), open_)
        self._closers.append(held.release)
        return held.value

    def model(self, folder: Path) -> Engine:
        """Raises ArtifactError where the engine is an endpoint, which has models of its own."""
        from core.engines.remote import RemoteEngine

        def open_() -> tuple[Engine, Callable[[], None]]:
            engine = self._open(str(folder))
            if type(engine) is RemoteEngine:
                engine.close()
                raise ArtifactError(
                    f"{folder}: is a model of its own, which the endpoint does not have; serve it without --engine URL,"
                    " or take it there (tunefork export --merge)"
                )
            return engine, engine.close

        held = self._shared.models.hold(_identity(folder), open_)
        self._closers.append(held.release)
        return held.value

    def demonstrations(self, folder: Path, k: int) -> Choose:
        """Raises ArtifactError when the examples are gone or damaged."""
        from rag.demonstrations import open_demonstrations

        if not folder.is_dir():
            raise ArtifactError(f"{folder}: the demonstrations are gone; build the use case again")
        held = self._shared.demonstrations.hold(
            _identity(folder), lambda: (open_demonstrations(folder, self._workspace.models), lambda: None)
        )
        self._closers.append(held.release)
        # The most alike stands last, next to the question.
        return lambda question: held.value.nearest([question], k)[0][::-1]

    def close(self) -> None:
        for close in reversed(self._closers):
            close()


def _identity(version: Path) -> tuple[Path, int]:
    """A version folder told apart from one of the same name in a use case that was deleted and made anew."""
    return version, version.stat().st_ino

"""How the server's commands open base models: `tunefork serve` and `tunefork chat`."""

from __future__ import annotations

from pathlib import Path

from core.models import local_folder
from core.workspace import Workspace
from serve.parts import OpenBase


def opener(workspace: Workspace, engine: str) -> OpenBase:
    """Opens base models with `engine`, as `tunefork serve --engine` takes it."""
    from core.engines.open import open_engine
    from serve.workers import RUNNING

    def to_gguf(model: str, adapter: Path, target: Path) -> None:
        from tuning.gguf_export import export_adapter

        export_adapter(adapter, model, local_folder(model, workspace.models), target)

    # The server bounds what runs at once, so an endpoint gets all of that.
    return lambda model: open_engine(model, workspace, engine, to_gguf, RUNNING)

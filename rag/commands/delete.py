"""`tunefork delete`: remove a use case."""

from __future__ import annotations

import sys

import click

from core.errors import ConfigError, EngineUnavailable, UserError
from core.workspace import UseCaseFolder, open_workspace


@click.command(name="delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--leave-collections", is_flag=True, help="Leave what a Chroma server has of it, as where that is gone.")
def command(name: str, yes: bool, leave_collections: bool) -> None:
    """Remove use case NAME with its index, adapters, verdict and runs. The files it was made from stay.

    Where the index is at a Chroma server, its collections there are removed too.
    """
    from rag.chroma_server import drop_all

    workspace = open_workspace()
    folder = workspace.use_case(name)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"deleting {name!r} cannot be undone; say --yes")
        click.confirm(f"Delete {folder.path} and all it holds?", abort=True)
    with folder.lock("advise"), folder.lock("build"), folder.lock("ingest"):
        if not leave_collections:
            try:
                drop_all(folder.index.folder, _store(folder))
            except EngineUnavailable as exc:
                raise EngineUnavailable(f"{exc}; or say --leave-collections to delete {name!r} without them") from exc
        workspace.delete(name)
    click.echo(f"deleted {name}")


def _store(folder: UseCaseFolder) -> str | None:
    """The Chroma server that the use case declares. One whose declaration is broken can be deleted too."""
    try:
        return folder.settings().store
    except UserError:
        return None

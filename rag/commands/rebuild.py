"""`tunefork rebuild NAME`"""

from __future__ import annotations

import click

from core.errors import DataError
from core.workspace import open_workspace
from rag.commands.ingest import show


@click.command("rebuild")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(name: str, as_json: bool) -> None:
    """Make a use case's index anew from the documents it was made from, whatever state it is in.

    The index in force answers until the new one is whole. Exit 2 when a file could not be read, as for `ingest`.
    """
    from rag.ingest import ingest

    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    if not settings.docs:
        raise DataError(f"use case {name!r} has no documents yet; run: tunefork ingest {name} PATH")
    show(ingest(folder, settings, workspace, settings.docs, rebuild=True), as_json)

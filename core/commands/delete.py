"""`tunefork delete`: remove a use case."""

from __future__ import annotations

import sys

import click

from core.errors import ConfigError
from core.workspace import open_workspace


@click.command(name="delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(name: str, yes: bool) -> None:
    """Remove use case NAME with its index, adapters, verdict and runs. The files it was made from stay."""
    workspace = open_workspace()
    folder = workspace.use_case(name)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"deleting {name!r} cannot be undone; say --yes")
        click.confirm(f"Delete {folder.path} and all it holds?", abort=True)
    with folder.lock("advise"), folder.lock("build"), folder.lock("ingest"):
        workspace.delete(name)
    click.echo(f"deleted {name}")

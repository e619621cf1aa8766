"""`tunefork build`: build what the verdict says."""

from __future__ import annotations

import json

import click

from core.remedy import ROUTES
from core.workspace import open_workspace


@click.command(name="build")
@click.argument("name")
@click.option("--route", type=click.Choice(ROUTES), help="Build this instead of what the verdict says.")
@click.option("--json", "as_json", is_flag=True, help="Print the remedy as one JSON document.")
def command(name: str, route: str | None, as_json: bool) -> None:
    """Build the remedy of use case NAME: its index, adapter, head or prompt; the server then answers with it."""
    workspace = open_workspace()
    folder = workspace.use_case(name)
    from advisor.build import build

    remedy = build(folder, folder.settings(), workspace, route)
    if as_json:
        click.echo(json.dumps(remedy.model_dump(mode="json"), ensure_ascii=False, indent=2))
        return
    parts = [f"route {remedy.route}"]
    parts += [f"index {remedy.index_version}"] if remedy.index_version else []
    parts += [f"{remedy.method} {remedy.adapter_version}"] if remedy.adapter_version else []
    parts += [f"{len(remedy.demonstrations)} demonstrations"] if remedy.demonstrations else []
    click.echo(f"built {name}: {', '.join(parts)}")
    click.echo(f"next:  tunefork serve, then ask for model {name!r} at http://127.0.0.1:8000/v1")

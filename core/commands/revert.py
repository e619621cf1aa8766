"""`tunefork revert`: what a use case answered with before, in force again at once and without a restart.

Indexes have no versions to go back to: an ingest removes the one before, so that deleted text is gone.
"""

from __future__ import annotations

import json

import click

from core.errors import ConfigError
from core.remedy import in_force, remedies, roll_back
from core.workspace import open_workspace


@click.command(name="revert")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the remedies that are kept, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, version: str | None, listing: bool, as_json: bool) -> None:
    """Put remedy VERSION (the one before, when none is given) of use case NAME in force.

    A running server answers with it from the next request on. `tunefork rollback` does this for an adapter alone.
    """
    if listing and version is not None:
        raise ConfigError("--list changes nothing, so it takes no VERSION")
    folder = open_workspace().use_case(name)
    path = folder.remedy_path
    with folder.lock("build"):
        before = in_force(path)
        now = before if listing else roll_back(path, version)
    kept = remedies(path)
    if as_json:
        click.echo(json.dumps({"use_case": name, "before": before, "in_force": now, "kept": kept}))
    elif listing:
        lines = [f"{v} (in force)" if v == now else v for v in kept]
        click.echo("\n".join(lines) or f"no remedy of {name} is kept; `tunefork build {name}` makes one")
    else:
        click.echo(f"{name}: remedy {now} is in force, in place of {before}")

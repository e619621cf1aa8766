"""`tunefork rollback NAME [VERSION]`"""

from __future__ import annotations

import json

import click

from core.errors import ConfigError
from core.remedy import load_remedy, save_remedy
from core.workspace import open_workspace


@click.command("rollback")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, version: str | None, as_json: bool) -> None:
    """Put another VERSION of use case NAME's adapter (or head) in force; without VERSION the one before.

    A running server answers with it from the next request on. No version is deleted.
    """
    from tuning.adapters import load_origin

    folder = open_workspace().use_case(name)
    with folder.lock("tune"):
        versions, active = folder.adapters.all(), folder.adapters.active()
        if not versions:
            raise ConfigError(f"use case {name!r} has no adapter; run `tunefork tune {name}` first")
        before = None if active is None else active.name
        if version is None:
            earlier = [known for known in versions if before is None or known < before]
            if not earlier:
                raise ConfigError(f"{before} is the first version of use case {name!r}; there is none before it")
            version = earlier[-1]
        if version not in versions:
            raise ConfigError(f"use case {name!r} has no version {version!r}; there are {', '.join(versions)}")
        origin = load_origin(folder.adapters.folder / version)
        folder.adapters.activate(version)
        remedy = load_remedy(folder.remedy_path)
        if remedy is not None and remedy.adapter_version is not None:
            # What was built names its version, so the name itself follows too.
            save_remedy(
                folder.remedy_path, remedy.model_copy(update={"adapter_version": version, "method": origin.method})
            )
    document = {
        "use_case": name,
        "version": version,
        "before": before,
        "method": origin.method,
        "created": origin.created,
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    if before == version:
        click.echo(f"{name}: {version} is in force already")
        return
    click.echo(f"{name}: {version} is in force ({origin.method} of {origin.created}; before: {before or 'none'})")

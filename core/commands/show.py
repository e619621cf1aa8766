"""`tunefork show`: one use case in full."""

from __future__ import annotations

import json
from typing import Any

import click

from core.canary import load_canary
from core.files import read_json
from core.jobs import state
from core.settings import UseCase
from core.workspace import UseCaseFolder, Versions, open_workspace


@click.command(name="show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, as_json: bool) -> None:
    """Settings, verdict, remedy, artifact versions and runs of use case NAME."""
    folder = open_workspace().use_case(name)
    document = _document(folder)
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    click.echo(f"{name}  ({folder.path})")
    for line in _settings(folder.settings()):
        click.echo(f"  {line}")
    verdict = document["verdict"]
    click.echo(
        "verdict   " + (f"{verdict['route']}, confidence {verdict['confidence']:.0%}" if verdict else "none yet")
    )
    remedy = document["remedy"]
    click.echo("built     " + (remedy["route"] if remedy else "nothing yet"))
    if (canary := document["canary"]) is not None:
        click.echo(f"canary    {100 * canary['share']:g} % of the requests go to {canary['arm']}")
    for kind in ("index", "adapters"):
        versions = document[kind]
        if versions["versions"]:
            named = [f"{v} {m}" if (m := versions.get("methods", {}).get(v)) else v for v in versions["versions"]]
            click.echo(f"{kind:<9} {', '.join(named)} (in force: {versions['active'] or 'none'})")
    for run in document["runs"]:
        click.echo(f"run       {run['name']}  {run['state']}")


def _settings(settings: UseCase) -> list[str]:
    """What is set, a line a setting; of a table what differs from its defaults."""
    lines = []
    for key, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            table = getattr(settings, key).model_dump(mode="json", exclude_defaults=True)
            lines += [f"{f'{key}.{name}':<16} {_said(one)}" for name, one in table.items()]
        elif value not in (None, "", []):
            lines.append(f"{key:<16} {_said(value)}")
    return lines


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _document(folder: UseCaseFolder) -> dict[str, Any]:
    def versions(which: Any) -> dict[str, Any]:
        active = which.active()
        return {"versions": which.all(), "active": None if active is None else active.name}

    canary = load_canary(folder)
    return {
        "name": folder.name,
        "settings": folder.settings().model_dump(mode="json"),
        "verdict": folder.verdict(),
        "remedy": read_json(folder.remedy_path) if folder.remedy_path.exists() else None,
        "canary": None if canary is None else {"arm": canary.arm, "share": canary.share},
        "index": versions(folder.index),
        "adapters": versions(folder.adapters) | {"methods": _methods(folder.adapters)},
        "runs": [{"name": run.name, "state": state(run)} for run in folder.runs()],
    }


def _methods(adapters: Versions) -> dict[str, str]:
    """What each version is: lora, head or full."""
    origins = {version: adapters.folder / version / "origin.json" for version in adapters.all()}
    return {version: str(read_json(path).get("method")) for version, path in origins.items() if path.is_file()}

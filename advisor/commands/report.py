"""`tunefork report`: the last verdict of a use case, and where its report is."""

from __future__ import annotations

import json

import click

from core.errors import ConfigError
from core.files import read_json
from core.workspace import open_workspace


@click.command(name="report")
@click.argument("name")
@click.option("--markdown", is_flag=True, help="Print the whole report as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as one JSON document.")
def command(name: str, markdown: bool, as_json: bool) -> None:
    """Where the report of use case NAME is, and what it says in short."""
    folder = open_workspace().use_case(name)
    verdict = folder.verdict()
    if verdict is None:
        raise ConfigError(f"use case {name!r} has no report yet; run `tunefork advise {name}` first")
    run = folder.path / "runs" / str(verdict["run"])
    if as_json:
        click.echo(json.dumps(read_json(run / "report.json"), ensure_ascii=False, indent=2))
    elif markdown:
        click.echo((run / "report.md").read_text(encoding="utf-8"))
    else:
        click.echo(f"{name}: {verdict['route']} (confidence {verdict['confidence']:.0%})")
        for reason in verdict["reasons"]:
            click.echo(f"- {reason}")
        click.echo(f"report: {run / 'report.html'}")

"""`tunefork ledger`: the items that the base model got wrong in the last run, and why."""

from __future__ import annotations

import json

import click

from core.errors import ConfigError, UnknownName
from core.files import read_json
from core.progress import say
from core.workspace import open_workspace


@click.command(name="ledger")
@click.argument("name")
@click.option("--cause", "causes", multiple=True, metavar="C", help="Only items that fail for this cause; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with counts and meanings.")
def command(name: str, causes: tuple[str, ...], as_json: bool) -> None:
    """The failed items of use case NAME as JSONL: cause, input, gold, every arm's answer.

    A cause is what would mend the item, e.g. retrieval_miss or form_only; how often each occurs goes to stderr.
    """
    from advisor.ledger import CAUSES

    folder = open_workspace().use_case(name)
    verdict = folder.verdict()
    if verdict is None:
        raise ConfigError(f"use case {name!r} has no verdict yet; run `tunefork advise {name}` first")
    for cause in causes:
        if cause not in CAUSES:
            raise UnknownName("cause", cause, CAUSES, hint=f"(all: {', '.join(CAUSES)})")
    ledger = read_json(folder.path / "runs" / str(verdict["run"]) / "report.json")["ledger"]
    rows = [row for row in ledger["rows"] if not causes or row["cause"] in causes]
    if as_json:
        counts = {cause: n for cause, n in ledger["counts"].items() if not causes or cause in causes}
        meanings = {cause: CAUSES.get(cause, cause) for cause in counts}
        document = {"counts": counts, "meanings": meanings, "rows": rows}
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for row in rows:
        click.echo(json.dumps(row, ensure_ascii=False))
    counted = ", ".join(f"{cause} {n}" for cause, n in ledger["counts"].items())
    say(f"{len(rows)} of {len(ledger['rows'])} failed items ({counted or 'none failed'})")

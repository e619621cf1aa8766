"""`tunefork usage`: what each key and use case has used."""

from __future__ import annotations

import json

import click

from core.workspace import open_workspace


@click.command("usage")
@click.option("--since", metavar="DATE", default="", help="From this day on (UTC, as in 2026-11-01).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(since: str, as_json: bool) -> None:
    """Requests, tokens and money by day, key and use case, of this workspace's server; it may run meanwhile."""
    from datetime import date

    from core.errors import ConfigError
    from serve.state import State
    from serve.usage import usage_rows

    if since:
        try:
            date.fromisoformat(since)
        except ValueError as exc:
            raise ConfigError(f"--since {since!r} is not a date; write it as in 2026-11-01") from exc
    folder = open_workspace().path
    rows = []
    if (folder / "server" / "state.db").exists():
        state = State(folder)
        try:
            rows = usage_rows(state, since)
        finally:
            state.close()
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not rows:
        click.echo("nothing was used yet")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("day", "key", "use case", "base model", "requests", "prompt tokens", "completion tokens", "USD"):
        table.add_column(column)
    for row in rows:
        numbers = (f"{row[name]:,}" for name in ("requests", "prompt_tokens", "completion_tokens"))
        table.add_row(row["day"], row["key"], row["use_case"] or "-", row["base_model"], *numbers, f"{row['usd']:.4f}")
    Console().print(table)

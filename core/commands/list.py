"""`tunefork list`: the use cases of the workspace."""

from __future__ import annotations

import json
from typing import Any

import click

from core.workspace import UseCaseFolder, open_workspace


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """The use cases of this workspace, with their verdicts and what was built."""
    workspace = open_workspace()
    rows = [_row(workspace.use_case(name)) for name in workspace.names()]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not rows:
        click.echo(f"no use cases in {workspace.path}; `tunefork advise NAME --eval FILE` makes one")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "verdict", "confidence", "built", "base model"):
        table.add_column(column)
    for row in rows:
        confidence = "-" if row["confidence"] is None else f"{row['confidence']:.0%}"
        table.add_row(row["name"], row["verdict"] or "-", confidence, row["built"] or "-", row["base_model"])
    Console().print(table)


def _row(folder: UseCaseFolder) -> dict[str, Any]:
    from core.remedy import load_remedy

    verdict = folder.verdict() or {}
    remedy = load_remedy(folder.remedy_path)
    built = None if remedy is None else remedy.route + (f" ({remedy.method})" if remedy.method else "")
    return {
        "name": folder.name,
        "verdict": verdict.get("route"),
        "confidence": verdict.get("confidence"),
        "built": built,
        "base_model": folder.settings().base_model,
    }

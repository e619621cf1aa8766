"""`tunefork report`: the last verdict of a use case, where its report is, and the items it got wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from core.errors import ArtifactError, ConfigError, UnknownName
from core.files import read_json, read_own_jsonl
from core.workspace import open_workspace

FORMATS = {"html": "report.html", "md": "report.md", "json": "report.json"}
LONGEST = 200
"""Characters of an input or answer on the terminal."""


@click.command(name="report")
@click.argument("name")
@click.option("--format", "format_", type=click.Choice([*FORMATS]), help="Print the whole report in this format.")
@click.option("--open", "open_", is_flag=True, help="Show the HTML report in the browser.")
@click.option("--failed", is_flag=True, help="List the items that the base model got wrong, with every arm's answer.")
@click.option("--cause", metavar="C", help="Only the failed items of this cause.")
@click.option("--find", metavar="TEXT", help="Only the failed items that hold TEXT in input, gold or an answer.")
@click.option("--markdown", is_flag=True, help="The same as --format md.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json; with --failed, one JSON list.")
def command(
    name: str,
    format_: str | None,
    open_: bool,
    failed: bool,
    cause: str | None,
    find: str | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Where the report of use case NAME is, and what it says in short."""
    folder = open_workspace().use_case(name)
    verdict = folder.verdict()
    if verdict is None:
        raise ConfigError(f"use case {name!r} has no report yet; run `tunefork advise {name}` first")
    run = folder.path / "runs" / str(verdict["run"])
    if failed or cause is not None or find is not None:
        if format_ is not None or markdown:
            raise ConfigError("--failed, --cause and --find list items; leave --format and --markdown out")
        rows = _chosen(run, cause, find)
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2) if as_json else _items(rows))
        return
    kinds = [format_] if format_ is not None else []
    kinds += [kind for kind, given in (("md", markdown), ("json", as_json)) if given and kind not in kinds]
    if len(kinds) > 1:
        raise ConfigError(f"{' and '.join(kinds)} are two formats; ask for one (--format)")
    if open_:
        click.launch(str(run / FORMATS["html"]))
    if kinds:
        click.echo(_text(run / FORMATS[kinds[0]], name))
        return
    click.echo(f"{name}: {verdict['route']} (confidence {verdict['confidence']:.0%})")
    for reason in verdict["reasons"]:
        click.echo(f"- {reason}")
    click.echo(f"report: {run / FORMATS['html']}")


def _text(path: Path, name: str) -> str:
    if not path.exists():
        raise ArtifactError(f"{path} is gone; run `tunefork advise {name}` again")
    if path.suffix == ".json":
        return json.dumps(read_json(path), ensure_ascii=False, indent=2)
    return path.read_text(encoding="utf-8")


def _chosen(run: Path, cause: str | None, find: str | None) -> list[dict[str, Any]]:
    """Rows of the ledger with that cause and text.

    Raises:
        UnknownName: no failed item has that cause; lists those that some have.
    """
    rows: list[dict[str, Any]] = read_own_jsonl(run / "ledger.jsonl")
    causes = sorted({row["cause"] for row in rows})
    if cause is not None and cause not in causes:
        raise UnknownName("cause", cause, causes, hint=f"(failed items here: {', '.join(causes) or 'none'})")
    wanted = (find or "").casefold()
    return [row for row in rows if cause in (None, row["cause"]) and wanted in _words(row).casefold()]


def _words(row: dict[str, Any]) -> str:
    return "\n".join([row["input"], *row["gold"], *(answer["text"] for answer in row["answers"].values())])


def _items(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines += [f"{row['item']}  {row['cause']}", f"  input   {_cut(row['input'])}"]
        lines.append(f"  gold    {_cut(' | '.join(row['gold'])) or '(none)'}")
        width = max(len(arm) for arm in row["answers"])
        for arm, answer in row["answers"].items():
            lines.append(f"  {arm:<{width}}  {answer['outcome'] or 'scored':<8} {_cut(answer['text'])}")
        lines.append("")
    return "\n".join([*lines, f"{len(rows)} items"])


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."

"""`tunefork ingest NAME PATH...`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.errors import ConfigError, DataError
from core.progress import say
from core.workspace import open_workspace

if TYPE_CHECKING:
    from rag.ingest import IngestReport


@click.command("ingest")
@click.argument("name")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--embedding-model", metavar="M", help="A starter, a folder, a hub id or MODEL@URL; remembered.")
@click.option("--replace", is_flag=True, help="Forget the paths of earlier ingests; only these are indexed.")
@click.option("--rebuild", is_flag=True, help="Read and embed everything anew, whatever the index holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    name: str, paths: tuple[Path, ...], embedding_model: str | None, replace: bool, rebuild: bool, as_json: bool
) -> None:
    """Index documents for a use case: files, folders or patterns (html, pdf, md, rst, txt, docx, pptx, xlsx, eml, csv,
    tsv, json, jsonl, source code).

    Paths are remembered and add up: `ingest NAME` alone brings the index up to date with all of them. Changed files are
    indexed anew, deleted ones leave the index. Exit 2 when a file could not be read; the others are indexed all the
    same.
    """
    from rag.ingest import ingest

    workspace = open_workspace()
    given = [_absolute(path) for path in paths]
    if replace and not given:
        raise ConfigError("--replace needs the paths to index")
    for path in given:
        _must_exist(path)
    folder, settings = workspace.declare(name, {"embedding_model": embedding_model})
    docs = list(dict.fromkeys([*(() if replace else settings.docs), *given]))
    if not docs:
        raise DataError(f"use case {settings.name!r} has no documents yet; run: tunefork ingest {settings.name} PATH")
    folder, settings = workspace.declare(name, {"docs": tuple(docs)})
    show(ingest(folder, settings, workspace, settings.docs, rebuild=rebuild), as_json)


def show(report: IngestReport, as_json: bool) -> None:
    """Print what an ingest did.

    Raises:
        DataError: a file could not be read: the exit code says so.
    """
    from rag.ingest import report_json

    if as_json:
        click.echo(json.dumps(report_json(report), ensure_ascii=False))
    else:
        done = "indexed" if report.changed else "unchanged:"
        click.echo(
            f"{report.use_case}: {done} {report.documents} documents ({report.passages} passages) from {report.files}"
            f" files in {report.seconds:.1f} s; {report.embedded} passages embedded, {report.reused} known"
        )
    if report.empty_documents:
        say(f"{report.empty_documents} documents hold no text")
    for left in report.left_out:
        say(f"left out: {left.path}: {left.reason}")
    for failed in report.failed:
        say(f"failed: {failed.path}: {failed.reason}")
    if report.failed:
        count = len(report.failed)
        raise DataError(f"{count} file{'s' * (count > 1)} could not be read (named above); all others are indexed")


def _absolute(path: Path) -> Path:
    # Not resolved: a pattern is no path, and a link the user names is to be followed anew each time.
    return Path.cwd() / path.expanduser()


def _must_exist(path: Path) -> None:
    from rag.documents import expanded

    expanded(path)

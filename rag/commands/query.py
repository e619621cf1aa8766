"""`tunefork query NAME TEXT`"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import click

from core.errors import ConfigError
from core.workspace import open_workspace
from rag.commands.search_options import overlaid, search_options


@click.command("query")
@click.argument("name")
@click.argument("text")
@click.option("--top-k", type=click.IntRange(1, 100), help="Passages to show; default: the use case's.")
@click.option("--filter", "filter_text", metavar="JSON", help='Conditions, as {"type":"eq","key":"lang","value":"en"}.')
@search_options
@click.option("--json", "as_json", is_flag=True, help="Print the passages as one JSON document.")
def command(name: str, text: str, top_k: int | None, filter_text: str | None, as_json: bool, **flags: Any) -> None:
    """Show the passages a use case's index returns for TEXT, best first."""
    from rag.citations import place
    from rag.evidence import evidence
    from rag.filters import read_filter
    from rag.open import open_retriever

    if not text.strip():
        raise ConfigError("the query is empty; write what to look for")
    filter = None if filter_text is None else read_filter(filter_text)
    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    search = overlaid(settings.retrieval, flags)
    with open_retriever(folder, settings, workspace) as retriever:
        start = time.perf_counter()
        sources = retriever.search([text], top_k or settings.top_k, search, filter)[0]
        latency_ms = 1000 * (time.perf_counter() - start)
        version = retriever.version
    found = evidence(sources)
    if as_json:
        value = {
            "use_case": name,
            "query": text,
            "version": version,
            "latency_ms": latency_ms,
            "evidence": found,
            "passages": [asdict(source) for source in sources],
        }
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    for source in sources:
        click.echo(f"[{source.number}] {source.score:.3f}  {source.title}  ({place(source)})")
        click.echo("    " + source.text.replace("\n", "\n    ") + "\n")
    if not sources:
        click.echo("no passage passes")
    click.echo(f"evidence {found:.2f} (0: these passages hardly answer it, 1: they do)")

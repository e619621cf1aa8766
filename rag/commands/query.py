"""`tunefork query NAME TEXT`"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from core.errors import ConfigError
from core.workspace import open_workspace


@click.command("query")
@click.argument("name")
@click.argument("text")
@click.option("--top-k", type=click.IntRange(1, 100), help="Passages to show; default: the use case's.")
@click.option("--json", "as_json", is_flag=True, help="Print the passages as one JSON document.")
def command(name: str, text: str, top_k: int | None, as_json: bool) -> None:
    """Show the passages a use case's index returns for TEXT, best first."""
    from rag.retrieve import open_retriever

    if not text.strip():
        raise ConfigError("the query is empty; write what to look for")
    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    with open_retriever(folder, settings, workspace) as retriever:
        start = time.perf_counter()
        sources = retriever.search([text], top_k or settings.top_k)[0]
        latency_ms = 1000 * (time.perf_counter() - start)
        version = retriever.version
    if as_json:
        passages = [asdict(source) for source in sources]
        value = {"use_case": name, "query": text, "version": version, "latency_ms": latency_ms, "passages": passages}
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    for source in sources:
        page = f", page {source.metadata['page']}" if "page" in source.metadata else ""
        headings = f" > {source.metadata['headings']}" if "headings" in source.metadata else ""
        click.echo(f"[{source.number}] {source.score:.3f}  {source.document_id}{page}  {source.title}{headings}")
        click.echo("    " + source.text.replace("\n", "\n    ") + "\n")

"""`tunefork chat`: ask a served name from the terminal, in this process or at a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from serve.asking import Answer, Ask, Turn


@click.command()
@click.argument("name")
@click.argument("message", required=False)
@click.option(
    "--url", help="Ask the server at this URL (as in http://127.0.0.1:8000/v1) rather than load the model here."
)
@click.option("--api-key", envvar="TUNEFORK_API_KEY", help="Key for --url.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="transformers|llamacpp|vllm|URL",
    help="As in `tunefork serve`.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer; default: the use case's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; needs MESSAGE or standard input.")
def command(
    name: str,
    message: str | None,
    url: str | None,
    api_key: str | None,
    engine: str,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask NAME one MESSAGE, or without it: talk (an empty line or Ctrl-D ends, /new starts over)."""
    from core.errors import ConfigError

    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is not None and not message.strip():
        raise ConfigError("the message is empty; give one as MESSAGE or on standard input")
    if message is None and as_json:
        raise ConfigError("--json needs a MESSAGE, as an argument or on standard input")
    with _asking(name, url, api_key, engine, max_tokens) as ask:
        if message is None:
            _talk(ask)
        elif as_json:
            answer = _last(ask([Turn("user", message)]))
            click.echo(json.dumps({"model": name, **answer.document()}, ensure_ascii=False))
        else:
            _show(ask([Turn("user", message)]))


@contextmanager
def _asking(name: str, url: str | None, api_key: str | None, engine: str, max_tokens: int | None) -> Iterator[Ask]:
    from serve import asking

    if url is not None:
        yield asking.at_server(url, api_key, name, max_tokens)
        return
    from core.errors import Locked
    from core.workspace import open_workspace
    from serve.catalog import Catalog
    from serve.opening import opener

    workspace = open_workspace()
    catalog = Catalog(workspace, opener(workspace, engine))
    try:
        yield asking.in_process(catalog, name, max_tokens)
    except Locked as exc:
        raise Locked(f"{exc}; or ask the server that has it: --url http://HOST:PORT/v1") from exc
    finally:
        catalog.close()


def _talk(ask: Ask) -> None:
    turns: list[Turn] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            click.echo()
            return
        if not text:
            return
        if text == "/new":
            turns = []
            continue
        turns.append(Turn("user", text))
        answer = _show(ask(turns))
        turns.append(Turn("assistant", answer.text))


def _show(pieces: Iterator[str | Answer]) -> Answer:
    """Print an answer as it comes, then the passages it was grounded in."""
    last: Answer | None = None
    for piece in pieces:
        if isinstance(piece, str):
            click.echo(piece, nl=False)
        else:
            last = piece
    assert last is not None, "an answer ends with its Answer"
    click.echo()
    if last.sources:
        click.echo("\nSources:")
        for source in last.sources:
            click.echo(_line(source))
    return last


def _line(source: dict[str, Any]) -> str:
    text = " ".join(str(source["text"]).split())
    short = text if len(text) <= 100 else text[:97] + "..."
    return f"  [{source['number']}] {source['title'] or source['document_id']} ({source['score']:.2f}): {short}"


def _last(pieces: Iterator[str | Answer]) -> Answer:
    *_, last = pieces
    assert isinstance(last, Answer), "an answer ends with its Answer"
    return last

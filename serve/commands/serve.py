"""`tunefork serve`: every use case of the workspace behind one OpenAI-compatible API."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

import click

from serve.workers import RUNNING, WAITING

ENGINE_HELP = (
    "What runs local base models: transformers (in this process), vllm (a child server), or the URL of an OpenAI-compatible"
    " server that has them. auto: the best one for this machine."
)


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; other than loopback needs a key."
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--engine", default="auto", show_default=True, metavar="transformers|vllm|URL", help=ENGINE_HELP)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    help="A key clients must send; repeat for more. TUNEFORK_API_KEYS (comma-separated) keeps them out of `ps`.",
)
@click.option(
    "--running", default=RUNNING, show_default=True, type=click.IntRange(1, 1024), help="Answers made at once."
)
@click.option(
    "--waiting", default=WAITING, show_default=True, type=click.IntRange(0), help="Queue; beyond it clients get 429."
)
@click.option(
    "--grace", default=20, show_default=True, type=click.IntRange(0), help="Seconds answers may take to end on SIGTERM."
)
@click.option("--json", "as_json", is_flag=True, help="When ready, print {url, port, pid, models} on stdout.")
def command(
    host: str,
    port: int,
    engine: str,
    api_keys: tuple[str, ...],
    running: int,
    waiting: int,
    grace: int,
    as_json: bool,
) -> None:
    """Serve every use case, and each base model, behind one OpenAI-compatible API."""
    from serve.server import check_exposure, listen

    from_environment = os.environ.get("TUNEFORK_API_KEYS", "").split(",")
    keys = [key.strip() for key in (*api_keys, *from_environment) if key.strip()]
    check_exposure(host, keys)
    listener = listen(host, port)
    # The port is ours: what takes long may begin.
    from core.engines.open import open_engine
    from core.locks import hold
    from core.progress import say
    from core.workspace import open_workspace
    from serve.catalog import Catalog
    from serve.server import run_server

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    workspace = open_workspace()

    def ready(url: str, models: list[str]) -> None:
        say(f"ready: {url}/v1 serves {', '.join(models)} (all names: {url}/v1/models; Ctrl-C stops)")
        if as_json:
            document = {"url": f"{url}/v1", "port": listener_port, "pid": os.getpid(), "models": models}
            click.echo(json.dumps(document))

    listener_port = listener.getsockname()[1]
    with listener, hold(workspace.path / ".serve.lock", f"the server of workspace {workspace.path}"):
        say(f"listening on port {listener_port}; loading models ...")
        catalog = Catalog(workspace, lambda model: open_engine(model, workspace, engine=engine))
        run_server(catalog, listener, on_ready=ready, api_keys=keys, running=running, waiting=waiting, grace_s=grace)
    say("stopped")
    if threading.active_count() > 1:
        # A worker may still be inside torch after the grace time; tearing the interpreter down under it aborts the
        # process. Everything is closed and said, so leave at once.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

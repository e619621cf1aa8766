"""`tunefork serve`: every use case of the workspace behind one OpenAI-compatible API."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Literal

import click

from serve.workers import RUNNING, WAITING

ENGINE_HELP = (
    "What runs local base models: transformers or llamacpp (in this process), vllm (a child server), or the URL of an"
    " OpenAI-compatible server that has them. auto: llamacpp for a GGUF file, else transformers."
)


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; other than loopback needs a key."
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--engine", default="auto", show_default=True, metavar="transformers|llamacpp|vllm|URL", help=ENGINE_HELP)
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
@click.option("--log-requests", is_flag=True, help="Keep what use cases are asked and answer, for feedback (off).")
@click.option(
    "--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]), help="Of the log."
)
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="A log line for each request.")
@click.option("--otel", is_flag=True, help="Send traces over OTLP (always where OTEL_EXPORTER_OTLP_ENDPOINT is set).")
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="URL", help="Web pages of this origin may ask.")
@click.option("--input-usd-per-1m", type=click.FloatRange(0), default=0.0, help="Price of a million prompt tokens.")
@click.option("--output-usd-per-1m", type=click.FloatRange(0), default=0.0, help="Price of a million answer tokens.")
@click.option("--json", "as_json", is_flag=True, help="When ready, print {url, port, pid, models} on stdout.")
def command(
    host: str,
    port: int,
    engine: str,
    api_keys: tuple[str, ...],
    running: int,
    waiting: int,
    grace: int,
    log_requests: bool,
    log_format: Literal["text", "json"],
    access_log: bool,
    otel: bool,
    cors_origins: tuple[str, ...],
    input_usd_per_1m: float,
    output_usd_per_1m: float,
    as_json: bool,
) -> None:
    """Serve every use case, and each base model, behind one OpenAI-compatible API."""
    from core.engines.open import check_engine
    from core.workspace import open_workspace
    from serve.keys import KeyStore
    from serve.server import check_exposure, listen
    from serve.tracing import open_tracing

    from_environment = os.environ.get("TUNEFORK_API_KEYS", "").split(",")
    keys = [key.strip() for key in (*api_keys, *from_environment) if key.strip()]
    known = KeyStore(open_workspace().path).all()
    check_exposure(host, keys, bool(known))
    check_engine(engine)
    tracing = open_tracing(otel)
    listener = listen(host, port)
    # The port is ours: what takes long may begin.
    from core.locks import hold
    from core.progress import say
    from serve.catalog import Catalog
    from serve.logs import configure_logging
    from serve.opening import opener
    from serve.server import run_server
    from serve.services import Options
    from serve.usage import Prices

    configure_logging(log_format, access_log)
    options = Options(Prices(input_usd_per_1m, output_usd_per_1m), log_requests, cors_origins, tracing=tracing)
    if not (input_usd_per_1m or output_usd_per_1m) and any(key.budget_usd and key.usable() for key in known):
        say("a key has a budget, which nothing is charged to: give --input-usd-per-1m and --output-usd-per-1m")
    workspace = open_workspace()

    def ready(url: str, models: list[str]) -> None:
        say(f"ready: {url}/v1 serves {', '.join(models)} (all names: {url}/v1/models; Ctrl-C stops)")
        if as_json:
            document = {"url": f"{url}/v1", "port": listener_port, "pid": os.getpid(), "models": models}
            click.echo(json.dumps(document))

    listener_port = listener.getsockname()[1]
    with listener, hold(workspace.path / ".serve.lock", f"the server of workspace {workspace.path}"):
        say(f"listening on port {listener_port}; loading models ...")
        catalog = Catalog(workspace, opener(workspace, engine))
        run_server(
            catalog,
            listener,
            on_ready=ready,
            api_keys=keys,
            running=running,
            waiting=waiting,
            grace_s=grace,
            options=options,
        )
    say("stopped")
    if threading.active_count() > 1:
        # A worker may still be inside torch after the grace time; tearing the interpreter down under it aborts the
        # process. Everything is closed and said, so leave at once.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

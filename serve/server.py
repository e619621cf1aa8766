"""The server process: take the port first, load models behind it, stop gracefully."""

from __future__ import annotations

import errno
import gc
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from core.errors import ConfigError, TuneforkError
from core.progress import say
from serve.app import create_app
from serve.catalog import Catalog
from serve.protocol import Protocol
from serve.services import Options

GRACE_S = 20


def check_exposure(host: str, api_keys: Sequence[str], has_keys: bool = False) -> None:
    """Raises ConfigError when anybody on the network could use the server.

    Args:
        has_keys: the workspace has keys of its own.
    """
    if not api_keys and not has_keys and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines; make a key (`tunefork keys create`), give"
            " --api-key or TUNEFORK_API_KEYS, or use 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Listening at once, before any model is loaded, makes a busy port known in the first second, and lets two servers
    that start together not both believe the port is theirs.

    Raises:
        ConfigError: the port or the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as exc:
        raise ConfigError(f"--host {host!r} is not an address of this machine ({exc})") from exc
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            text = f"port {port} of {host} is in use; stop what listens there, or give another with --port (0: any free one)"
        elif exc.errno == errno.EACCES:
            text = f"port {port} needs rights this user lacks; give one above 1023 with --port"
        else:
            text = f"cannot listen on {host} port {port} ({exc.strerror})"
        raise ConfigError(text) from exc
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    catalog: Catalog,
    listener: socket.socket,
    *,
    on_ready: Callable[[str, list[str]], None],
    api_keys: Sequence[str] = (),
    running: int,
    waiting: int,
    grace_s: int = GRACE_S,
    options: Options | None = None,
) -> None:
    """Serve `catalog` on `listener` until SIGTERM or Ctrl-C, then let answers end for up to `grace_s` seconds.

    /health answers from the start, /ready once every use case is open; `on_ready` then gets the URL and the names that
    opened. A second signal stops at once.

    Raises:
        TuneforkError: not one name could be opened; the server has stopped by then.
    """
    app = create_app(catalog, api_keys=api_keys, running=running, waiting=waiting, phase="loading", options=options)
    server = _Server(http_config(app, grace_s))
    failed: list[TuneforkError] = []

    def warm() -> None:
        # What is there before the first engine stays to the end. A full collection holds up every request while it walks
        # that, for a tenth of a second; an engine must stay collectable, for a newer version may take its place.
        gc.collect()
        gc.freeze()
        opened, errors = open_all(catalog)
        # Now, and not beneath the first burst of requests; the next one is due when a quarter more is there.
        gc.collect()
        if server.should_exit:
            return
        if errors and not opened:
            failed.append(errors[0])
            server.should_exit = True
            return
        app.state.phase = "ready"
        on_ready(url_of(listener), opened)

    with _stopped_by_signals(server):
        threading.Thread(target=warm, name="tunefork-warm", daemon=True).start()
        server.run(sockets=[listener])
    catalog.close()
    if failed:
        raise failed[0]


def http_config(app: FastAPI, grace_s: int) -> uvicorn.Config:
    """How `app` is spoken to; stopping, it waits up to `grace_s` seconds for answers to end."""
    return uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,
    )


def open_all(catalog: Catalog) -> tuple[list[str], list[TuneforkError]]:
    """Open what each use case (without one: the base model) serves. A name that cannot be opened is said, not fatal."""
    entries = catalog.entries()
    names = [e.name for e in entries if e.use_case is not None and not e.variant] or [e.name for e in entries]
    opened, errors = [], []
    for name in names:
        try:
            with catalog.lease(name):
                opened.append(name)
        except TuneforkError as exc:
            errors.append(exc)
            say(f"{name} is not served: {exc}")
    return opened, errors


class _Server(uvicorn.Server):
    """uvicorn, but for its signal handlers: those end the process by the signal, where we exit 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    def stop(_signum: int, _frame: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        else:
            say("stopping: answers in progress may end (again to stop at once)")
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

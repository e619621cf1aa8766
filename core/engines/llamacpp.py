"""llama.cpp in this process, through xllamacpp: the fast path on a CPU for a model that comes as a GGUF file.

xllamacpp's server keeps the slots and the running batch, and listens on a free loopback port; what it says is OpenAI's
wire, so a RemoteEngine asks it there, with a key nobody else has. Closing a stream closes its connection, which frees
the slot at the next token.

It takes adapters when it starts only. For one it does not have, a second server is started with that one too and takes
over; answers that the first is making end there, then it is closed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from core.engines.adapters import WEIGHTS, AdapterError, adapter_config
from core.engines.base import OnDone, Result
from core.engines.llamacpp_server import LlamaCppServer, shape_of
from core.engines.pushing import Sink, push_each
from core.engines.tool_reader import read_calls, with_calls
from core.engines.tools import as_text, held_to_choice, offered
from core.errors import EngineError, EngineUnavailable, MissingExtra, TuneforkError
from core.types import Completion, Delta, Request

SLOTS = 16
"""Answers in one running batch. On two cores, more raise no throughput."""

Convert = Callable[[Path, Path], None]
"""Writes the PEFT adapter in a folder as a GGUF file."""


class LlamaCppEngine:
    """A GGUF file, answering. Loaded at construction."""

    def __init__(
        self, file: Path, name: str, *, slots: int = SLOTS, convert: Convert | None = None, adapters: Sequence[str] = ()
    ) -> None:
        """
        Args:
            convert: None: requests for an adapter are refused.
            adapters: folders of adapters to load at once; one that cannot be is left for its first request to say so.

        Raises:
            MissingExtra: xllamacpp is not installed.
            EngineUnavailable: the file is no model that llama.cpp can load.
        """
        if not installed():
            raise MissingExtra("the llamacpp engine", "llamacpp")
        self._file = file
        self._name = name
        self._slots = slots
        self._convert = convert
        self._files = TemporaryDirectory(prefix="tunefork-gguf-")
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        """Held while a server with more adapters is started; the one in use answers meanwhile."""
        self._closed = False
        try:
            # Read once: it takes a second for a large vocabulary.
            self._shape = shape_of(file)
            self._now = LlamaCppServer(file, self._shape, name, slots, dict(self._converted(adapters)))
        except BaseException:
            self._files.cleanup()
            raise
        self._servers = [self._now]
        """The last one is in use, others end their last answers."""

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._now.window

    def count_tokens(self, text: str) -> int:
        if not text:
            return 0
        with self._serving(()) as server:
            try:
                response = server.http.post("/tokenize", json={"content": text, "add_special": False})
                response.raise_for_status()
            except (httpx.HTTPError, RuntimeError) as exc:
                raise EngineUnavailable(f"llama.cpp does not answer ({exc})") from exc
        return len(response.json()["tokens"])

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        self._check_open()
        results: dict[int, Result] = {}
        ready: list[tuple[int, Request]] = []
        for index, request in enumerate(requests):
            try:
                if request.adapter is not None:
                    self._load(request.adapter)
                ready.append((index, self._told(request)))
            except EngineError as exc:
                results[index] = exc
                if on_done is not None:
                    on_done(index, exc)

        def read(i: int, result: Result) -> Result:
            # Once an answer: reading gives the calls in it their ids.
            index = ready[i][0]
            if index not in results:
                found = with_calls(requests[index], result) if isinstance(result, Completion) else result
                results[index] = found
            return results[index]

        report = None if on_done is None else lambda i, result: on_done(ready[i][0], read(i, result))
        with self._serving([r.adapter for _, r in ready if r.adapter is not None]) as server:
            for i, result in enumerate(server.remote.complete([request for _, request in ready], report)):
                read(i, result)
        return [results[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        with self._asked(request) as (server, told):
            yield from read_calls(request, server.remote.stream(told))

    def push(self, request: Request, sink: Sink) -> None:
        if request.tools:
            push_each(self.stream(request), sink)
            return
        with self._asked(request) as (server, told):
            server.remote.push(told, sink)

    def close(self) -> None:
        with self._loading:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
                servers, self._servers = self._servers, []
            for server in servers:
                server.close()
        self._files.cleanup()

    @contextmanager
    def _asked(self, request: Request) -> Iterator[tuple[LlamaCppServer, Request]]:
        """A server for `request`, and the request as it is told to it."""
        self._check_open()
        if request.adapter is not None:
            self._load(request.adapter)
        told = self._told(request)
        with self._serving([told.adapter] if told.adapter is not None else []) as server:
            yield server, told

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("the engine is closed")

    @contextmanager
    def _serving(self, keys: Sequence[str]) -> Iterator[LlamaCppServer]:
        """A server that has all of these adapters, kept running for the block."""
        with self._lock:
            self._check_open()
            server = self._now
            missing = [key for key in keys if key not in server.adapters]
            server.users += not missing
        if missing:
            raise AdapterError(f"{missing[0]}: the adapter was replaced just now; ask again")
        try:
            yield server
        finally:
            with self._lock:
                server.users -= 1
            self._let_go()

    def _let_go(self) -> None:
        """Close the servers that another has taken the place of, once they have no answer to make."""
        with self._lock:
            done = [s for s in self._servers if s is not self._now and not s.users]
            self._servers = [s for s in self._servers if s not in done]
        for server in done:
            server.close()

    def _load(self, folder: str) -> None:
        """See to it that the server in use has the adapter in `folder`.

        Raises:
            AdapterError: it is none, or one of another model, or none that llama.cpp can use.
        """
        if self._convert is None:
            raise EngineError("this llamacpp engine answers with the base model only; it was opened without adapters")
        if _key(folder) in self._now.adapters:
            return
        with self._loading:
            self._check_open()
            now = self._now
            if (key := _key(folder)) in now.adapters:
                return
            kept = {known: file for known, file in now.adapters.items() if Path(known.rpartition("@")[0]).is_dir()}
            # One that was trained anew in the same folder takes the old one's place.
            kept = {known: file for known, file in kept.items() if known.rpartition("@")[0] != folder}
            files = {**kept, key: self._gguf(folder)}
            try:
                server = LlamaCppServer(self._file, self._shape, self._name, self._slots, files)
            except EngineUnavailable as exc:
                raise AdapterError(f"{folder}: llama.cpp cannot load the adapter") from exc
            with self._lock:
                self._servers.append(server)
                self._now = server
        self._let_go()

    def _converted(self, folders: Iterable[str]) -> Iterator[tuple[str, Path]]:
        for folder in folders:
            try:
                yield _key(folder), self._gguf(folder)
            except AdapterError:
                continue

    def _gguf(self, folder: str) -> Path:
        """The adapter in `folder` as a GGUF file."""
        assert self._convert is not None
        adapter_config(Path(folder), self._name)
        target = Path(self._files.name) / f"{uuid.uuid4().hex}.gguf"
        try:
            self._convert(Path(folder), target)
        except TuneforkError as exc:
            raise AdapterError(f"{folder}: the adapter cannot be given to llama.cpp ({exc})") from exc
        return target

    def _told(self, request: Request) -> Request:
        """`request` with its tools in the prompt, in the words for templates without tools, and its adapter by key."""
        if request.adapter is not None:
            request = replace(request, adapter=_key(request.adapter))
        if request.prompt is not None:
            return request
        request = held_to_choice(request)
        messages = as_text(request.messages, offered(request))
        return replace(request, messages=messages, tools=(), tool_choice="auto")


def installed() -> bool:
    return find_spec("xllamacpp") is not None


def _key(folder: str) -> str:
    """The adapter in `folder`, as long as its weights are these."""
    try:
        return f"{folder}@{(Path(folder) / WEIGHTS).stat().st_mtime_ns}"
    except OSError as exc:
        raise AdapterError(f"{folder}: no adapter there ({WEIGHTS}: {exc.strerror})") from exc

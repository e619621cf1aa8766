"""llama.cpp in this process, through xllamacpp: the fast path on a CPU for a model that comes as a GGUF file.

xllamacpp's server keeps the slots and the running batch, and listens on a free loopback port; what it says is OpenAI's
wire, so a RemoteEngine asks it there, with a key nobody else has. Closing a stream closes its connection, which frees
the slot at the next token.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from core.engines.base import OnDone, Result
from core.engines.remote import RemoteEngine
from core.engines.tools import as_text, held_to_choice, offered, read_calls, with_calls
from core.errors import EngineError, EngineUnavailable, MissingExtra
from core.types import Completion, Delta, Request

SLOTS = 16
"""Answers in one running batch. On two cores, more raise no throughput."""

CACHE_BYTES = 1 << 30
"""Keys and values of all slots together."""


class LlamaCppEngine:
    """A GGUF file, answering. Loaded at construction. It answers with the base model only: adapters are PEFT's."""

    def __init__(self, file: Path, name: str, *, slots: int = SLOTS) -> None:
        """
        Raises:
            MissingExtra: xllamacpp is not installed.
            EngineUnavailable: the file is no model that llama.cpp can load.
        """
        if not installed():
            raise MissingExtra("the llamacpp engine", "llamacpp")
        import xllamacpp

        shape = _shape(file)
        key = secrets.token_urlsafe(24)
        self._server: Any = _started(xllamacpp, _parameters(xllamacpp, file, shape, slots, key), file)
        self._name = name
        self._window = min(shape.context, _columns(shape, slots))
        url = self._server.listening_address
        # Prompts that begin alike are found in the slots' caches, so nothing else is asked for.
        self._remote = RemoteEngine(
            f"{url}/v1", name, api_key=key, context_window=self._window, concurrency=slots, timeout_s=600.0
        )
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60.0
        )
        self._closed = False

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._window

    def count_tokens(self, text: str) -> int:
        if not text:
            return 0
        try:
            response = self._http.post("/tokenize", json={"content": text, "add_special": False})
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
                ready.append((index, _told(request)))
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
        for i, result in enumerate(self._remote.complete([request for _, request in ready], report)):
            read(i, result)
        return [results[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        self._check_open()
        yield from read_calls(request, self._remote.stream(_told(request)))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._remote.close()
        self._http.close()
        self._server = None

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("the engine is closed")


def installed() -> bool:
    return find_spec("xllamacpp") is not None


class Shape(NamedTuple):
    context: int
    """Tokens the model was trained on."""
    column_bytes: int
    """Keys and values of one token in all layers, in 16 bits."""


def _shape(file: Path) -> Shape:
    """Raises EngineUnavailable when `file` is no GGUF file of a language model."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        kind = fields["general.architecture"].contents()

        def number(key: str, default: int | None = None) -> int:
            field = fields.get(f"{kind}.{key}")
            if field is None and default is not None:
                return default
            value = fields[f"{kind}.{key}"].contents()
            return max(value) if isinstance(value, list) else int(value)

        heads = number("attention.head_count")
        size = number("embedding_length") // heads
        width = number("attention.key_length", size) + number("attention.value_length", size)
        columns = number("block_count") * number("attention.head_count_kv", heads) * width * 2
        return Shape(number("context_length"), columns)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
        raise EngineUnavailable(f"{file}: not a GGUF file of a language model ({exc})") from exc


def _columns(shape: Shape, slots: int) -> int:
    """Columns of the cache that the slots share."""
    affordable = max(CACHE_BYTES // shape.column_bytes, min(shape.context, 4096))
    return int(min(affordable, shape.context * slots))


def _parameters(xllamacpp: Any, file: Path, shape: Shape, slots: int, key: str) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_parallel = slots
    parameters.n_ctx = _columns(shape, slots)
    parameters.kv_unified = True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    parameters.api_keys = [key]
    parameters.ui = False
    parameters.verbosity = -1
    # The answer's text is read here, as on every engine.
    parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    # Each request says how to decode; prompts kept in main memory beside the slots would grow it by gigabytes.
    parameters.cache_ram_mib = 0
    return parameters


def _started(xllamacpp: Any, parameters: Any, file: Path) -> Any:
    try:
        return xllamacpp.Server(parameters)
    except (RuntimeError, ValueError, OSError) as exc:
        raise EngineUnavailable(f"{file}: llama.cpp cannot load it ({exc})") from exc


def _told(request: Request) -> Request:
    """`request` with its tools in the prompt, in the words for templates without tools.

    Raises:
        EngineError: it asks for an adapter.
    """
    if request.adapter is not None:
        raise EngineError("the llamacpp engine answers with the base model only; adapters need the transformers engine")
    if request.prompt is not None:
        return request
    request = held_to_choice(request)
    messages = as_text(request.messages, offered(request))
    return replace(request, messages=messages, tools=(), tool_choice="auto")

"""One running llama.cpp server in this process, on a free loopback port, with the adapters it was started with."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from core.engines.remote import RemoteEngine
from core.errors import EngineUnavailable

CACHE_BYTES = 1 << 30
"""Keys and values of all slots together."""


class Shape(NamedTuple):
    context: int
    """Tokens the model was trained on."""
    column_bytes: int
    """Keys and values of one token in all layers, in 16 bits."""


class LlamaCppServer:
    """Ready when its construction returns. Adapters cannot be added to it: a server with more of them takes its place."""

    def __init__(self, file: Path, shape: Shape, name: str, slots: int, adapters: Mapping[str, Path]) -> None:
        """
        Args:
            shape: of the model in `file`.
            adapters: GGUF files of adapters, each by the name that a request has for it.

        Raises:
            EngineUnavailable: llama.cpp cannot load the model or an adapter.
        """
        import xllamacpp

        key = secrets.token_urlsafe(24)
        parameters = _parameters(xllamacpp, file, shape, slots, key)
        # At scale 0 an adapter is there and changes nothing; a request turns its own on.
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in adapters.values()]
        parameters.lora_init_without_apply = True
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError, OSError) as exc:
            raise EngineUnavailable(f"{file}: llama.cpp cannot load it ({exc})") from exc
        self.adapters = dict(adapters)
        self.window = min(shape.context, _columns(shape, slots))
        self.users = 0
        """Answers that are made by it; kept by its owner."""
        url = self._server.listening_address
        fields = {name: {"lora": [{"id": number, "scale": 1.0}]} for number, name in enumerate(adapters)}
        # Said to the base model too: a request without the field keeps a slot's cached prompt, whatever adapter read it.
        none = {"lora": [{"id": 0, "scale": 0.0}]} if adapters else {}
        self.remote = RemoteEngine(
            f"{url}/v1",
            name,
            api_key=key,
            context_window=self.window,
            adapters=fields,
            extra=none,
            concurrency=slots,
            timeout_s=600.0,
        )
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60.0
        )

    def close(self) -> None:
        self.remote.close()
        self.http.close()
        self._server = None


def shape_of(file: Path) -> Shape:
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

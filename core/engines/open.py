"""From the names a user writes (base model, engine) to an engine that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from core.engines.adapters import AdapterError, adapter_config, rank
from core.engines.base import Engine
from core.errors import ConfigError, UnknownName
from core.models import gguf_file, local_folder, remote, starter
from core.progress import say
from core.workspace import Workspace

ENGINES = ("auto", "transformers", "llamacpp", "vllm")


def check_engine(engine: str) -> None:
    """Raises UnknownName where `engine` is neither a known one nor a URL."""
    if engine not in ENGINES and not _is_url(engine):
        raise UnknownName("engine", engine, ENGINES, hint="(or the http(s) URL of an OpenAI-compatible endpoint)")


def open_engine(
    base_model: str,
    workspace: Workspace,
    engine: str = "auto",
    to_gguf: Callable[[str, Path, Path], None] | None = None,
    concurrency: int | None = None,
) -> Engine:
    """An engine for `base_model`; the caller closes it.

    Args:
        base_model: a starter's name, a folder, a hub id, or MODEL@URL for any OpenAI-compatible endpoint.
        engine: auto (llama.cpp for a GGUF file on a CPU where its extra is installed and that has no adapters,
            in-process transformers for every other model on this machine), transformers, llamacpp, vllm, or the
            URL of an OpenAI-compatible endpoint that serves `base_model`.
        to_gguf: writes an adapter of a model as a GGUF file (model, adapter's folder, file), so that llama.cpp can answer
            with it; None: it answers with the base model only.
        concurrency: requests under way at once at an endpoint; None: few enough for a hosted one.

    Raises:
        UnknownName: no such engine or model.
        ConfigError: the two contradict each other.
        EngineUnavailable: the model cannot be loaded, or the endpoint not be reached.
        MissingExtra: vllm or llamacpp is asked for and not installed.
    """
    check_engine(engine)
    far = remote(base_model)
    if _is_url(engine):
        if far is not None:
            raise ConfigError(f"base model {base_model!r} and engine {engine!r} both name a URL; give one")
        from core.engines.remote import RemoteEngine

        return RemoteEngine(engine, base_model, concurrency=concurrency)
    if far is not None:
        if engine != "auto":
            raise ConfigError(f"base model {base_model!r} is remote; engine {engine!r} runs models on this machine")
        from core.engines.remote import RemoteEngine

        return RemoteEngine(far.base_url, far.model, name=base_model, concurrency=concurrency)
    known = starter(base_model)
    name = known.name if known is not None else base_model
    if engine == "auto":
        engine = default_engine(base_model, workspace)
    if engine == "llamacpp":
        from core.engines.llamacpp import LlamaCppEngine

        file = gguf_file(base_model)
        if file is None:
            raise ConfigError(f"the llamacpp engine needs a GGUF file, and base model {base_model!r} is none")
        if to_gguf is None:
            return LlamaCppEngine(file, name)
        known_adapters = [str(folder) for folder, _ in _adapters(workspace, name, active=True)]
        return LlamaCppEngine(file, name, convert=partial(to_gguf, base_model), adapters=known_adapters)
    folder = local_folder(base_model, workspace.models)
    if engine == "vllm":
        from core.engines.vllm import VllmEngine

        return VllmEngine(folder, name, workspace.path / "logs", max_rank=_largest_rank(workspace, name))
    from core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, name)


def _is_url(engine: str) -> bool:
    return engine.startswith(("http://", "https://"))


def default_engine(base_model: str, workspace: Workspace) -> str:
    """What `auto` means for a model on this machine; said aloud where it is not the usual transformers.

    A starter comes as GGUF too, but its use cases are measured, tuned and built on its converted weights.
    """
    if starter(base_model) is not None or gguf_file(base_model) is None:
        return "transformers"
    from core.engines.llamacpp import installed

    if not installed():
        say(f"{Path(base_model).name} is converted for the transformers engine; 'tunefork[llamacpp]' answers faster")
        return "transformers"
    if _largest_rank(workspace, base_model):
        say(f"{Path(base_model).name} is converted for the transformers engine: adapters of it are served")
        return "transformers"
    say(f"{Path(base_model).name} is answered by llama.cpp in this process")
    return "llamacpp"


def _largest_rank(workspace: Workspace, model: str) -> int:
    """Largest rank of the adapters in `workspace` that belong to `model`; 0 when there are none."""
    return max((rank(config) for _, config in _adapters(workspace, model)), default=0)


def _adapters(workspace: Workspace, model: str, *, active: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and configuration of each LoRA adapter of `model`; with `active` only of those in force."""
    for name in workspace.names():
        adapters = workspace.use_case(name).adapters
        for version in adapters.all():
            folder = adapters.folder / version
            if active and folder != adapters.active():
                continue
            try:
                yield folder, adapter_config(folder, model)
            except AdapterError:
                continue  # of another model, or a head

"""From the names a user writes (base model, engine) to an engine that answers."""

from __future__ import annotations

from pathlib import Path

from core.engines.adapters import AdapterError, adapter_config, rank
from core.engines.base import Engine
from core.errors import ConfigError, UnknownName
from core.models import gguf_file, local_folder, remote, starter
from core.progress import say
from core.workspace import Workspace

ENGINES = ("auto", "transformers", "llamacpp", "vllm")


def open_engine(base_model: str, workspace: Workspace, engine: str = "auto") -> Engine:
    """An engine for `base_model`; the caller closes it.

    Args:
        base_model: a starter's name, a folder, a hub id, or MODEL@URL for any OpenAI-compatible endpoint.
        engine: auto (llama.cpp for a GGUF file on a CPU where its extra is installed and no adapter needs the
            other, in-process transformers for every other model on this machine), transformers, llamacpp, vllm, or the
            URL of an OpenAI-compatible endpoint that serves `base_model`.

    Raises:
        UnknownName: no such engine or model.
        ConfigError: the two contradict each other.
        EngineUnavailable: the model cannot be loaded, or the endpoint not be reached.
        MissingExtra: vllm or llamacpp is asked for and not installed.
    """
    far = remote(base_model)
    if engine.startswith(("http://", "https://")):
        if far is not None:
            raise ConfigError(f"base model {base_model!r} and engine {engine!r} both name a URL; give one")
        from core.engines.remote import RemoteEngine

        return RemoteEngine(engine, base_model)
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES, hint="(or the http(s) URL of an OpenAI-compatible endpoint)")
    if far is not None:
        if engine != "auto":
            raise ConfigError(f"base model {base_model!r} is remote; engine {engine!r} runs models on this machine")
        from core.engines.remote import RemoteEngine

        return RemoteEngine(far.base_url, far.model, name=base_model)
    known = starter(base_model)
    name = known.name if known is not None else base_model
    if engine == "auto":
        engine = default_engine(base_model, workspace)
    if engine == "llamacpp":
        from core.engines.llamacpp import LlamaCppEngine

        file = gguf_file(base_model)
        if file is None:
            raise ConfigError(f"the llamacpp engine needs a GGUF file, and base model {base_model!r} is none")
        return LlamaCppEngine(file, name)
    folder = local_folder(base_model, workspace.models)
    if engine == "vllm":
        from core.engines.vllm import VllmEngine

        return VllmEngine(folder, name, workspace.path / "logs", max_rank=_largest_rank(workspace, name))
    from core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, name)


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
    ranks = [0]
    for name in workspace.names():
        adapters = workspace.use_case(name).adapters
        for version in adapters.all():
            try:
                ranks.append(rank(adapter_config(adapters.folder / version, model)))
            except AdapterError:
                continue  # of another model, or a head
    return max(ranks)

"""From the names a user writes (base model, engine) to an engine that answers."""

from __future__ import annotations

from core.engines.adapters import AdapterError, adapter_config, rank
from core.engines.base import Engine
from core.errors import ConfigError, UnknownName
from core.models import local_folder, remote, starter
from core.workspace import Workspace

ENGINES = ("auto", "transformers", "vllm")


def open_engine(base_model: str, workspace: Workspace, engine: str = "auto") -> Engine:
    """An engine for `base_model`; the caller closes it.

    Args:
        base_model: a starter's name, a folder, a hub id, or MODEL@URL for any OpenAI-compatible endpoint.
        engine: auto (in-process transformers for a model on this machine), transformers, vllm, or the URL of an
            OpenAI-compatible endpoint that serves `base_model`.

    Raises:
        UnknownName: no such engine or model.
        ConfigError: the two contradict each other.
        EngineUnavailable: the model cannot be loaded, or the endpoint not be reached.
        MissingExtra: vllm is asked for and not installed.
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
    folder = local_folder(base_model, workspace.models)
    known = starter(base_model)
    name = known.name if known is not None else base_model
    if engine == "vllm":
        from core.engines.vllm import VllmEngine

        return VllmEngine(folder, name, workspace.path / "logs", max_rank=_largest_rank(workspace, name))
    from core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, name)


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

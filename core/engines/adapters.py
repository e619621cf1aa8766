"""A PEFT LoRA adapter's folder: is it whole, and does it belong to this model? Read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import ArtifactError, EngineError
from core.models import starter

WEIGHTS = "adapter_model.safetensors"


class AdapterError(ArtifactError, EngineError):
    """An adapter that cannot answer: damaged, or of another model. An EngineError, so it can stand in a batch."""


def adapter_config(folder: Path, model_name: str) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter of `model_name`.

    Raises:
        AdapterError: no whole LoRA adapter in safetensors, or its origin.json names another base model.
    """
    if not (folder / WEIGHTS).is_file():
        pickled = " (adapter_model.bin may run code when it is read, and is refused)"
        found = pickled if (folder / "adapter_model.bin").exists() else ""
        raise AdapterError(f"{folder}: no adapter there, {WEIGHTS} is missing{found}")
    config = _json(folder / "adapter_config.json")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{folder}: an adapter of type {kind}; only LoRA adapters are served")
    if (folder / "origin.json").exists():
        base = _json(folder / "origin.json").get("base_model")
        if isinstance(base, str) and not same_model(base, model_name):
            raise AdapterError(f"{folder}: the adapter was trained on {base!r} and cannot answer on {model_name!r}")
    return config


def rank(config: dict[str, Any]) -> int:
    """The largest rank of the adapter's matrices."""
    return max([int(config["r"]), *(int(r) for r in (config.get("rank_pattern") or {}).values())])


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: a starter is known by its own name and its hub id."""
    return a == b or (starter(a) is not None and starter(a) == starter(b))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise AdapterError(f"{path}: cannot be read ({exc})") from exc
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: damaged (no JSON object)")
    return value

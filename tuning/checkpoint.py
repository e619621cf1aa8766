"""The state of a training on the disk: one file, replaced as a whole, so a killed job leaves the last good one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from core.files import sha256_text
from core.settings import UseCase
from core.workspace import Workspace


def state_folder(workspace: Workspace, settings: UseCase, recipe: BaseModel, *parts: str) -> Path:
    """The folder of a training's state, by content: whoever asks for the same training goes on where it stopped.

    Args:
        parts: what decides, beside the recipe, what the training becomes. How often it is saved does not.
    """
    whole = [type(recipe).__name__, *parts, recipe.model_dump_json(exclude={"checkpoint_seconds"})]
    return workspace.path / "use_cases" / settings.name / "training" / sha256_text("\n".join(whole))[:16]


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, Any]) -> None:
    """Replace `path` in one step.

    Raises:
        OSError: the disk is full (ENOSPC); the file that was there is still there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tensors), temporary, metadata={"progress": json.dumps(dict(progress))})
        temporary.replace(path)
    except SafetensorError as exc:
        if "os error 28" not in str(exc):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from exc
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and progress; None when there is no file, or a damaged one (training then begins anew)."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None

"""Where an unfreezing stands, as a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuning.checkpoint import load_checkpoint, save_checkpoint

States = list[dict[str, torch.Tensor]]
"""Of each module (or parameter), its tensors by name."""


@dataclass(frozen=True)
class Point:
    step: int
    """Of the stage that is being trained."""
    stages: list[dict[str, Any]]
    """Those that have ended."""
    now: States
    keep: States
    """Weights of the best stage; [] while none has ended."""
    moments: States
    """AdamW's two averages, of each parameter in the order of the optimizer's groups."""

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer`, made anew, go on from here."""
        for parameter, moments in zip(_parameters(optimizer), self.moments, strict=True):
            optimizer.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}


def save_point(
    path: Path | None,
    modules: Sequence[nn.Module],
    stages: list[dict[str, Any]],
    keep: States,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write it to `path`; without one, nothing is kept."""
    if path is None:
        return
    states = [optimizer.state[p] for p in _parameters(optimizer)]
    parts: dict[str, States] = {
        "now": [module.state_dict() for module in modules],
        "keep": keep if stages else [],
        "moments": [{key: state[key] for key in ("exp_avg", "exp_avg_sq")} for state in states],
    }
    # A copy of each: safetensors takes no two names for one tensor.
    tensors = {
        f"{part} {i} {name}": value.detach().clone().cpu()
        for part, found in parts.items()
        for i, state in enumerate(found)
        for name, value in state.items()
    }
    save_checkpoint(path, tensors, {"step": step, "stages": stages})


def load_point(path: Path, device: torch.device) -> Point | None:
    """None where there is none, or a damaged one."""
    found = load_checkpoint(path)
    if found is None:
        return None
    tensors, progress = found
    parts: dict[str, dict[int, dict[str, torch.Tensor]]] = {"now": {}, "keep": {}, "moments": {}}
    for key, value in tensors.items():
        part, number, name = key.split(" ", 2)
        parts[part].setdefault(int(number), {})[name] = value.to(device)
    now, keep, moments = ([states for _, states in sorted(part.items())] for part in parts.values())
    return Point(progress["step"], progress["stages"], now, keep, moments)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]

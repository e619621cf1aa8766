"""Which linear layers of a model read the same input, as q, k and v do, so that one product can serve them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.inference_mode()
def readers(model: Any) -> dict[str, int]:
    """A number for every linear module, the same for neighbours that read the same input; found by one forward pass."""
    numbers: dict[tuple[str, int], int] = {}
    inputs: list[torch.Tensor] = []  # alive until the end, so that none is taken for another
    found: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.append(args[0])
            found[name] = numbers.setdefault((name.rpartition(".")[0], id(args[0])), len(numbers))

        return hook

    linear = [(name, module) for name, module in model.named_modules() if _is_linear(module)]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in linear]
    try:
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)

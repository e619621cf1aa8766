"""LoRA layers and attention with their gradients written out: the same values in a third of the operations.

PEFT's layer and transformers' plain attention leave their gradients to autograd, which makes some thirty small
operations a layer of them. On a small model they cost a tenth of a step on one core, and more on several: the products
then get faster and the small operations do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

ATTENTION = "tunefork_training"


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scaling (x A^T) B^T, for a frozen W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        hidden = flat @ down.T
        y = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        y.addmm_(hidden, up.T, alpha=scaling)
        ctx.save_for_backward(flat, hidden, weight, down, up)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, hidden, weight, down, up = ctx.saved_tensors
        g = gradients[0].reshape(-1, weight.shape[0])
        through = (g @ up).mul_(ctx.scaling)
        to_x = (
            (g @ weight).addmm_(through, down).view(*gradients[0].shape[:-1], -1) if ctx.needs_input_grad[0] else None
        )
        return to_x, None, None, through.T @ flat, (g.T @ hidden).mul_(ctx.scaling), None


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T + mask) v, with the query heads of a group side by side instead of their keys repeated."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows, heads, queries, dim = query.shape
        key_heads, columns = key.shape[1:3]
        grouped = query.reshape(rows * key_heads, -1, dim)
        keys, values = key.reshape(-1, columns, dim), value.reshape(-1, columns, value.shape[-1])
        scores = torch.bmm(grouped, keys.transpose(1, 2)).view(rows, heads, queries, columns)
        weights = scores.mul_(scale).add_(mask).softmax(-1).view(rows * key_heads, -1, columns)
        ctx.save_for_backward(grouped, keys, values, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return torch.bmm(weights, values).view(rows, heads, queries, -1).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grouped, keys, values, weights = ctx.saved_tensors
        query, key, value = ctx.shapes
        g = gradients[0].transpose(1, 2).reshape(*grouped.shape[:2], value[-1])
        to_weights = torch.bmm(g, values.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        return (
            torch.bmm(to_scores, keys).view(query),
            torch.bmm(to_scores.transpose(1, 2), grouped).view(key),
            torch.bmm(weights.transpose(1, 2), g).view(value),
            None,
            None,
        )


def register_attention() -> None:
    """Make `ATTENTION` known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[torch.Tensor, Any]:
    """What it does not know (soft caps, sinks, dropout, biases) it leaves to transformers' plain attention."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    extra = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if extra or attention_mask is None or (module.training and kwargs.get("dropout")):
        from transformers.models.llama.modeling_llama import eager_attention_forward

        plain: tuple[torch.Tensor, Any] = eager_attention_forward(
            module, query, key, value, attention_mask, scaling=scale, **kwargs
        )
        return plain
    mask = attention_mask[..., : key.shape[-2]]
    return _Attention.apply(query, key, value, mask, scale), None  # type: ignore[no-untyped-call]


def fuse_lora(model: nn.Module) -> int:
    """Give the plain LoRA layers of the PEFT model the fused product; how many there are.

    A layer that does more than a plain one does (dropout, DoRA, several adapters) stays as it is.
    """
    from peft.tuners.lora.layer import Linear

    fused = 0
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        if type(layer) is Linear and _plain(layer):
            (name,) = layer.active_adapters
            layer.forward = partial(
                _lora, layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
            )
            fused += 1
    return fused


def _plain(layer: Any) -> bool:
    base = layer.base_layer
    if len(layer.active_adapters) != 1 or type(base) is not nn.Linear or base.weight.requires_grad:
        return False
    (name,) = layer.active_adapters
    return (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )


def _lora(base: nn.Linear, down: nn.Linear, up: nn.Linear, scaling: float, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _LoraProduct.apply(x, base.weight, base.bias, down.weight, up.weight, scaling)  # type: ignore[no-untyped-call]
    return product

"""Attention for decoding without copying the keys once per query head.

With grouped-query attention several query heads share one key head, and
transformers' SDPA path repeats keys and values for each of them: on a CPU that
copy costs more than the attention. A decode step has one query a row, so the
heads of a group can stand in the query dimension instead, and nothing is copied.
"""

from __future__ import annotations

from typing import Any

NAME = "tunefork_grouped"


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Any, None]:
    """Attention output [rows, queries, heads, dim]; the same values as transformers' SDPA.

    Args:
        query: [rows, heads, queries, dim].
        key, value: [rows, key heads, width, dim].
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, queries, _ = query.shape
    if queries > 1 or attention_mask is None:
        result: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result
    key_heads = key.shape[1]
    grouped = query.reshape(rows, key_heads, heads // key_heads, query.shape[-1])
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, output.shape[-1]), None

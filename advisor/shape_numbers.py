"""A plausible shape from a parameter count alone: what `tunefork estimate --params 7e9` works with."""

from __future__ import annotations

import math
from dataclasses import replace

from advisor.model_shape import ModelShape, shape_from_config
from core.errors import ConfigError

SMALLEST = 100_000


def shape_from_numbers(
    params: int,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    vocab: int | None = None,
    intermediate: int | None = None,
) -> ModelShape:
    """A LLaMA-like shape of `params` parameters; what is not given follows LLaMA-2's proportions.

    hidden = 128 x layers (7B and 13B exactly, 70B 102 x), heads of 128, kv_heads = heads below 30e9 parameters and 8
    from there on, vocabulary 32,000 (fewer for a model too small to afford them); the MLP's width takes up what is
    left, so that the layers add up to `params`.

    Raises:
        ConfigError: the numbers contradict each other.
    """
    given = (layers, hidden, heads, kv_heads, vocab, intermediate)
    if params < SMALLEST and given == (None,) * 6:
        raise ConfigError(f"--params {params} is too small to guess a shape from; the least is {SMALLEST:.0e}")
    vocabulary = vocab or (32_000 if params >= 65e6 else max(256, params // 8192))
    grouped = kv_heads or (8 if params >= 30e9 and heads is None and hidden is None else None)
    width = hidden or _plausible_hidden(params, layers, heads, grouped, vocabulary)
    depth = layers or max(1, round((params - 2 * vocabulary * width) / (12 * width * width)))
    # Heads of 128, else of 64; a width that neither divides gets the nearest count that does.
    count = heads or (width // 128 if width % 128 == 0 else math.gcd(width, max(1, width // 64)))
    kv = grouped or count
    if width % count:
        raise ConfigError(f"--heads {count} does not divide --hidden {width}; choose a divisor of {width}")
    if count % kv:
        raise ConfigError(f"--kv-heads {kv} does not divide the {count} heads; choose a divisor of {count}")

    embedding = vocabulary * width
    attention = 2 * width * width + 2 * width * kv * (width // count)
    inter, copies = intermediate, 2  # of the embedding: the output layer has its own
    if inter is None:
        inter = round((params - 2 * embedding - depth * attention) / (3 * width * depth))
    else:
        body = depth * (attention + 3 * width * inter)
        copies = min((1, 2), key=lambda n: abs(body + n * embedding - params))
    implied = copies * embedding + depth * (attention + 3 * width * max(inter, 0))
    if inter < 1 or abs(implied - params) > 0.1 * params:
        text = f"{depth} layers, hidden {width}, vocabulary {vocabulary}"
        text += f", MLP {intermediate}" if intermediate else ""
        raise ConfigError(f"--params {params:.4g} does not go with {text}: that gives {implied:.4g}; mend one of them")
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": count,
        "num_key_value_heads": kv,
        "intermediate_size": inter,
        "vocab_size": vocabulary,
        "tie_word_embeddings": copies == 1,
    }
    shape = shape_from_config(config, f"{params:.4g} parameters")
    if None not in given:
        return replace(shape, params=params)
    note = f"shape assumed after LLaMA-2: {depth} layers, hidden {width}, {count} heads ({kv} kv), MLP {inter}, vocabulary {vocabulary}"
    return replace(shape, params=params, assumed=True, vocab_assumed=vocab is None, notes=(note,))


def _plausible_hidden(params: int, layers: int | None, heads: int | None, kv_heads: int | None, vocab: int) -> int:
    """Hidden size h with 12 * layers * h^2 + 2 * vocab * h = params, rounded to what the heads divide."""

    def size(h: float) -> float:
        return 12 * (layers or h / 128) * h * h + 2 * vocab * h

    low, high = 1.0, 1e6
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) < params else (low, middle)
    step = math.lcm(heads, 64) if heads else 128 * (kv_heads or 1) if high >= 1024 else 64 * (kv_heads or 1)
    return max(step, round(high / step) * step)

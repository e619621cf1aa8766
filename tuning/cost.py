"""What a LoRA training will take: steps, time and memory, before it starts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import ArtifactError, ConfigError
from core.workspace import Versions
from tuning.recipe import SettledLora

RUNTIME_BYTES = 0.8e9
"""Interpreter, torch, tokenizer; measured 0.7 to 0.9 GB."""
EFFICIENCY = 0.3
"""Share of the machine's speed in plain matrix products that a training reaches; measured on the starter model
(benchmarks/tuning.py). Overheads weigh less on larger models, attention more on longer rows."""


@dataclass(frozen=True)
class Cost:
    epochs: float
    steps: int
    tokens: int
    """Prompt and answer, over all epochs; early stopping may see fewer."""
    tokens_per_s: float
    speed_from: Literal["an earlier training", "matrix products"]
    seconds: float
    memory_bytes: int
    available_bytes: int | None
    """None where the system does not say."""


def lora_cost(
    base: Path, lengths: Sequence[int], supervised: Sequence[int], recipe: SettledLora, earlier: float | None
) -> Cost:
    """The cost of training on rows of those `lengths`, `supervised` tokens of each.

    Args:
        earlier: tokens a second of an earlier training on this base, where there was one.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base).get_text_config()
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    steps = max(1, round(math.ceil(len(lengths) / recipe.batch_rows) * recipe.epochs))
    tokens = round(sum(lengths) * recipe.epochs)
    # Forward 2 FLOP a parameter and token, backward 2 more: the frozen weights get no gradient (decision.md).
    speed = earlier or EFFICIENCY * _matmul_flops() / (4 * weights / 2)
    seconds = tokens / speed
    if recipe.max_seconds is not None:
        seconds = min(seconds, recipe.max_seconds)
    longest = max(max(lengths), min(recipe.batch_tokens or 512, recipe.batch_rows * max(lengths)))
    needed = _memory(config, weights, longest, recipe.batch_rows * max(supervised), recipe.rank)
    source: Literal["an earlier training", "matrix products"] = (
        "matrix products" if earlier is None else "an earlier training"
    )
    return Cost(recipe.epochs, steps, tokens, speed, source, seconds, needed, available_memory())


def check_memory(cost: Cost, longest: int) -> None:
    """Raises ConfigError when the training needs more memory than there is, with what would fit."""
    free = cost.available_bytes
    if free is None or cost.memory_bytes <= free:
        return
    raise ConfigError(
        f"this training needs about {cost.memory_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free;"
        f" shorten the rows (the longest has {longest} tokens), lower --rank, take a smaller --base-model, or"
        " train a head (--method head)"
    )


def _memory(config: Any, weights: int, tokens: int, supervised: int, rank: int) -> int:
    """Bytes by decision.md's components: weights, adapter and its optimizer, activations, attention, logits, runtime."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # Four projections of hidden size, three of the MLP: inputs and outputs of each rank-r pair.
    adapter = 16 * rank * layers * (8 * hidden + 3 * (hidden + inner))
    activations = 34 * tokens * hidden * layers
    scores = 4 * tokens * tokens * config.num_attention_heads * layers if tokens <= 512 else 0
    logits = 12 * min(supervised, tokens) * config.vocab_size
    return int(weights + adapter + activations + scores + logits + RUNTIME_BYTES)


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (/proc/meminfo is Linux's)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def earlier_speed(adapters: Versions, fingerprint: str) -> float | None:
    """Tokens a second of the newest adapter that was trained on the base of that fingerprint."""
    from tuning.adapters import load_origin

    for version in reversed(adapters.all()):
        try:
            origin = load_origin(adapters.folder / version)
        except ArtifactError:
            continue
        speed = origin.scores.get("tokens_per_s")
        if origin.method == "lora" and origin.base_fingerprint == fingerprint and speed:
            return float(speed)
    return None


def _matmul_flops() -> float:
    """Floating-point operations a second of this machine in one mid-sized product, in the type that training uses."""
    import torch

    from tuning.device import fast_bfloat16, pick_device

    device = pick_device("auto")
    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    x, w = torch.randn(256, 576, dtype=dtype, device=device), torch.randn(576, 1536, dtype=dtype, device=device)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        float((x @ w)[0, 0])  # reading a value waits for a GPU
        times.append(time.perf_counter() - start)
    return 2 * 256 * 576 * 1536 / min(times[2:])

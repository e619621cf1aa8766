"""What training a language model will take: steps, time and memory, before it starts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import ArtifactError, ConfigError
from core.remedy import Method
from core.workspace import Versions
from tuning.recipe import Settled, SettledFull, SettledLora

RUNTIME_BYTES = 0.8e9
"""Interpreter, torch, tokenizer; measured 0.7 to 0.9 GB."""
NF4_BYTES = 0.5625
"""Of a weight in 4 bits with its share of the scales (decision.md)."""
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
    fitting: tuple[str, ...] = ()
    """What trains the same rows in less memory, as flags and GB, where that would be free."""


def training_cost(
    base: Path, lengths: Sequence[int], supervised: Sequence[int], recipe: Settled, earlier: float | None
) -> Cost:
    """The cost of training on rows of those `lengths`, `supervised` tokens of each.

    Args:
        earlier: tokens a second of an earlier training on this base by the same method, where there was one.
    """
    from transformers import AutoConfig

    from tuning.device import fast_bfloat16, pick_device

    config = AutoConfig.from_pretrained(base).get_text_config()
    parameters = tensor_elements(base)
    bytes_each = 2 if fast_bfloat16(pick_device("auto")) else 4
    steps = max(1, round(math.ceil(len(lengths) / recipe.batch_rows) * recipe.epochs))
    tokens = round(sum(lengths) * recipe.epochs)
    # Forward 2 FLOP a parameter and token; backward 2 more, and another 2 where the weights get a gradient.
    flop = (4 if isinstance(recipe, SettledLora) else 6) * parameters
    speed = earlier or EFFICIENCY * _matmul_flops() / flop
    seconds = tokens / speed
    if recipe.max_seconds is not None:
        seconds = min(seconds, recipe.max_seconds)
    longest = max(max(lengths), min(recipe.batch_tokens or 512, recipe.batch_rows * max(lengths)))

    def needed(way: Settled) -> int:
        rows = recipe.batch_rows * max(supervised)
        return memory_bytes(config, parameters, bytes_each, longest, rows, way)

    source: Literal["an earlier training", "matrix products"] = (
        "matrix products" if earlier is None else "an earlier training"
    )
    free = available_memory()
    others = {flag: needed(way) for flag, way in _cheaper(recipe).items()}
    fitting = tuple(f"{flag} ({size / 1e9:.1f} GB)" for flag, size in others.items() if free is None or size <= free)
    return Cost(recipe.epochs, steps, tokens, speed, source, seconds, needed(recipe), free, fitting)


def check_memory(cost: Cost, longest: int) -> None:
    """Raises ConfigError when the training needs more memory than there is, with what would fit."""
    free = cost.available_bytes
    if free is None or cost.memory_bytes <= free:
        return
    others = [
        *cost.fitting,
        f"shorter rows (the longest has {longest} tokens)",
        "a smaller --base-model",
        "--method head",
    ]
    raise ConfigError(
        f"this training needs about {cost.memory_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; try"
        f" {', '.join(others[:-1])} or {others[-1]}"
    )


def _cheaper(recipe: Settled) -> dict[str, Settled]:
    """Ways to train the same rows in less memory, by the flags that choose them."""
    ways: dict[str, Settled] = {}
    small: Settled = recipe.model_copy(update={"checkpointing": True})
    if not recipe.checkpointing:
        ways["--gradient-checkpointing"] = small
    if isinstance(recipe, SettledFull):
        shared = {key: value for key, value in small.model_dump().items() if key in SettledLora.model_fields}
        ways["--method lora --gradient-checkpointing"] = small = SettledLora(**shared)
    if isinstance(small, SettledLora) and small.bits == 16:
        ways["--bits 4 --gradient-checkpointing (tunefork[qlora])"] = small.model_copy(update={"bits": 4})
    return ways


def memory_bytes(config: Any, parameters: int, bytes_each: int, tokens: int, supervised: int, recipe: Settled) -> int:
    """Bytes by decision.md's components: weights, what learns and its optimizer, activations, logits, runtime.

    Args:
        parameters: of the base model.
        bytes_each: a weight's, in the format training computes in.
        tokens: of one forward pass; `supervised` ones at most have logits.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    if isinstance(recipe, SettledFull):
        # The weights and their gradient in that format; in fp32 masters, gradient, two moments and the best so far.
        weights = parameters * (2 * bytes_each + 20)
        adapter = 0
    else:
        embedded = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
        linear = max(0, parameters - embedded)
        weights = round(linear * NF4_BYTES) + embedded * bytes_each if recipe.bits == 4 else parameters * bytes_each
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        # Four projections of hidden size, three of the MLP: inputs and outputs of each rank-r pair.
        adapter = 16 * recipe.rank * layers * (8 * hidden + 3 * (hidden + inner))
    kept = 34 * tokens * hidden + (4 * tokens * tokens * config.num_attention_heads if tokens <= 512 else 0)
    activations = kept + 2 * tokens * hidden * layers if recipe.checkpointing else kept * layers
    logits = 12 * min(supervised, tokens) * config.vocab_size
    return int(weights + adapter + activations + logits + RUNTIME_BYTES)


def tensor_elements(folder: Path) -> int:
    """Parameters of the model in `folder`, from the headers of its safetensors."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (/proc/meminfo is Linux's)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def earlier_speed(adapters: Versions, fingerprint: str, method: Method) -> float | None:
    """Tokens a second of the newest version that was trained by `method` on the base of that fingerprint."""
    from tuning.adapters import load_origin

    for version in reversed(adapters.all()):
        try:
            origin = load_origin(adapters.folder / version)
        except ArtifactError:
            continue
        speed = origin.scores.get("tokens_per_s")
        if origin.method == method and origin.base_fingerprint == fingerprint and speed:
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

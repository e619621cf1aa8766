"""Whether an adapter can be served where adapters are mixed in a batch: here and in vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import read_json

VLLM_MOST = 512
"""The highest rank that vLLM serves; `tunefork serve --engine vllm` sets its --max-lora-rank from the adapters."""
UNSERVABLE = "this adapter cannot be served as it is"
_MERGE = "merge it into a full model to serve it (tunefork export NAME --merge PATH)"


def lint_adapter(folder: Path) -> list[str]:
    """What stands in the way of serving the PEFT adapter in `folder`, one sentence each; [] when nothing does."""
    config: dict[str, Any] = read_json(folder / "adapter_config.json")
    found = []
    for key, what in {
        "use_dora": "DoRA rescales whole weights, which no engine does for one row of a batch",
        "modules_to_save": "it replaces whole layers (modules_to_save)",
        "lora_bias": "it trains biases (lora_bias)",
        "trainable_token_indices": "it trains token embeddings",
        "layer_replication": "it repeats layers",
    }.items():
        if config.get(key):
            found.append(f"{what}; {_MERGE}")
    if config.get("bias", "none") != "none":
        found.append(f"it trains biases (bias={config['bias']}); {_MERGE}")
    rank = max([int(config["r"]), *(int(r) for r in (config.get("rank_pattern") or {}).values())])
    if rank > VLLM_MOST:
        found.append(f"its rank {rank} is over vLLM's most ({VLLM_MOST}); {_MERGE}")
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        found.append(f"it holds {pickles[0]}, a pickle, which is refused")
    return found

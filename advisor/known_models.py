"""Public models by name: the integers of their config.json, so that a name resolves without a network.

Each row was checked by building the model from its config on torch's meta device
(tests/advisor/test_model_shape.py): parameters agree exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from advisor.model_shape import ModelShape, shape_from_config


class Known(NamedTuple):
    hub_id: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    also: tuple[str, ...] = ()
    """Other names of the same shape; spelling variants (case, -instruct, -hf, dashes) need no entry."""
    extra: Mapping[str, Any] = {}
    """Config keys beyond the columns."""


_TIED = {"tie_word_embeddings": True}
_QWEN2_5 = "Qwen/Qwen2.5-"
_QWEN3 = "Qwen/Qwen3-"
_BERT = {"max_position_embeddings": 512, "type_vocab_size": 2}

KNOWN: tuple[Known, ...] = (
    Known("meta-llama/Llama-2-7b-hf", "llama", 4096, 32, 32, 32, 11008, 32000, ("llama-7b", "huggyllama/llama-7b")),
    Known("meta-llama/Llama-2-13b-hf", "llama", 5120, 40, 40, 40, 13824, 32000, ("llama-13b", "huggyllama/llama-13b")),
    Known("meta-llama/Llama-2-70b-hf", "llama", 8192, 80, 64, 8, 28672, 32000),
    Known("huggyllama/llama-30b", "llama", 6656, 60, 52, 52, 17920, 32000, ("llama-33b",)),
    Known("huggyllama/llama-65b", "llama", 8192, 80, 64, 64, 22016, 32000),
    Known("meta-llama/Meta-Llama-3-8B", "llama", 4096, 32, 32, 8, 14336, 128256, ("llama-3-8b", "llama-3.1-8b")),
    Known(
        "meta-llama/Meta-Llama-3-70B",
        "llama",
        8192,
        80,
        64,
        8,
        28672,
        128256,
        ("llama-3-70b", "llama-3.1-70b", "llama-3.3-70b"),
    ),
    Known("meta-llama/Llama-3.1-405B", "llama", 16384, 126, 128, 8, 53248, 128256),
    Known("meta-llama/Llama-3.2-1B", "llama", 2048, 16, 32, 8, 8192, 128256, extra=_TIED),
    Known("meta-llama/Llama-3.2-3B", "llama", 3072, 28, 24, 8, 8192, 128256, extra=_TIED),
    Known("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", 2048, 22, 32, 4, 5632, 32000, ("tinyllama", "tinyllama-1.1b")),
    Known("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 576, 30, 9, 3, 1536, 49152, ("smollm-135m",), _TIED),
    Known("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 960, 32, 15, 5, 2560, 49152, ("smollm-360m",), _TIED),
    Known("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 2048, 24, 32, 32, 8192, 49152, ("smollm-1.7b",), _TIED),
    Known("HuggingFaceTB/SmolLM3-3B", "smollm3", 2048, 36, 16, 4, 11008, 128256, extra=_TIED),
    Known(
        "mistralai/Mistral-7B-v0.1",
        "mistral",
        4096,
        32,
        32,
        8,
        14336,
        32000,
        ("mistral-7b", "mistral-7b-v0.2", "mistral-7b-instruct-v0.2"),
    ),
    Known("mistralai/Mistral-7B-v0.3", "mistral", 4096, 32, 32, 8, 14336, 32768, ("mistral-7b-instruct-v0.3",)),
    Known(
        "mistralai/Mistral-Nemo-Instruct-2407",
        "mistral",
        5120,
        40,
        32,
        8,
        14336,
        131072,
        ("mistral-nemo", "mistral-nemo-12b"),
        {"head_dim": 128},
    ),
    Known(
        "mistralai/Mixtral-8x7B-v0.1",
        "mixtral",
        4096,
        32,
        32,
        8,
        14336,
        32000,
        ("mixtral-8x7b", "mixtral-8x7b-instruct-v0.1"),
        {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    Known(_QWEN2_5 + "0.5B", "qwen2", 896, 24, 14, 2, 4864, 151936, extra=_TIED),
    Known(_QWEN2_5 + "1.5B", "qwen2", 1536, 28, 12, 2, 8960, 151936, extra=_TIED),
    Known(_QWEN2_5 + "3B", "qwen2", 2048, 36, 16, 2, 11008, 151936, extra=_TIED),
    Known(_QWEN2_5 + "7B", "qwen2", 3584, 28, 28, 4, 18944, 152064),
    Known(_QWEN2_5 + "14B", "qwen2", 5120, 48, 40, 8, 13824, 152064),
    Known(_QWEN2_5 + "32B", "qwen2", 5120, 64, 40, 8, 27648, 152064),
    Known(_QWEN2_5 + "72B", "qwen2", 8192, 80, 64, 8, 29568, 152064),
    Known(_QWEN3 + "0.6B", "qwen3", 1024, 28, 16, 8, 3072, 151936, extra={"head_dim": 128, **_TIED}),
    Known(_QWEN3 + "1.7B", "qwen3", 2048, 28, 16, 8, 6144, 151936, extra={"head_dim": 128, **_TIED}),
    Known(_QWEN3 + "4B", "qwen3", 2560, 36, 32, 8, 9728, 151936, extra={"head_dim": 128, **_TIED}),
    Known(_QWEN3 + "8B", "qwen3", 4096, 36, 32, 8, 12288, 151936, extra={"head_dim": 128}),
    Known(_QWEN3 + "14B", "qwen3", 5120, 40, 40, 8, 17408, 151936, extra={"head_dim": 128}),
    Known(_QWEN3 + "32B", "qwen3", 5120, 64, 64, 8, 25600, 151936, extra={"head_dim": 128}),
    Known("tiiuae/falcon-7b", "falcon", 4544, 32, 71, 1, 18176, 65024, extra={"multi_query": True, **_TIED}),
    Known(
        "tiiuae/falcon-40b",
        "falcon",
        8192,
        60,
        128,
        8,
        32768,
        65024,
        extra={"new_decoder_architecture": True, "num_kv_heads": 8, **_TIED},
    ),
    Known("microsoft/phi-1_5", "phi", 2048, 24, 32, 32, 8192, 51200, ("phi-1.5",)),
    Known("microsoft/phi-2", "phi", 2560, 32, 32, 32, 10240, 51200),
    Known("microsoft/Phi-3-mini-4k-instruct", "phi3", 3072, 32, 32, 32, 8192, 32064, ("phi-3-mini", "phi-3.5-mini")),
    Known("microsoft/Phi-3-medium-4k-instruct", "phi3", 5120, 40, 40, 10, 17920, 32064, ("phi-3-medium",)),
    Known("microsoft/Phi-4-mini-instruct", "phi3", 3072, 32, 24, 8, 8192, 200064, extra=_TIED),
    Known("microsoft/phi-4", "phi3", 5120, 40, 40, 10, 17920, 100352),
    Known("google/gemma-2b", "gemma", 2048, 18, 8, 1, 16384, 256000, extra={"head_dim": 256}),
    Known("google/gemma-7b", "gemma", 3072, 28, 16, 16, 24576, 256000, extra={"head_dim": 256}),
    Known("google/gemma-2-2b", "gemma2", 2304, 26, 8, 4, 9216, 256000, extra={"head_dim": 256}),
    Known("google/gemma-2-9b", "gemma2", 3584, 42, 16, 8, 14336, 256000, extra={"head_dim": 256}),
    Known("google/gemma-2-27b", "gemma2", 4608, 46, 32, 16, 36864, 256000, extra={"head_dim": 128}),
    Known("google/gemma-3-1b-pt", "gemma3_text", 1152, 26, 4, 1, 6912, 262144, extra={"head_dim": 256}),
    Known("openai-community/gpt2", "gpt2", 768, 12, 12, 12, 3072, 50257, extra={"max_position_embeddings": 1024}),
    Known("EleutherAI/pythia-1.4b", "gpt_neox", 2048, 24, 16, 16, 8192, 50304),
    Known(
        "facebook/opt-1.3b",
        "opt",
        2048,
        24,
        32,
        32,
        8192,
        50272,
        extra={"max_position_embeddings": 2048, "ffn_dim": 8192, "word_embed_proj_dim": 2048},
    ),
    Known("google-bert/bert-base-uncased", "bert", 768, 12, 12, 12, 3072, 30522, extra=_BERT),
    Known("sentence-transformers/all-MiniLM-L6-v2", "bert", 384, 6, 12, 12, 1536, 30522, ("minilm",), _BERT),
    Known("BAAI/bge-small-en-v1.5", "bert", 384, 12, 12, 12, 1536, 30522, extra=_BERT),
    Known("BAAI/bge-base-en-v1.5", "bert", 768, 12, 12, 12, 3072, 30522, extra=_BERT),
)


def known_shape(name: str) -> ModelShape | None:
    """Shape of the known model of that name (hub id or short name, case and dashes aside); None when there is none."""
    from advisor.media_shapes import MEDIA, media_shape

    key = _key(name)
    for row in KNOWN:
        if key in {_key(other) for other in (row.hub_id, *row.also)}:
            return shape_from_config(config_of(row), row.hub_id)
    for hub_id, also in MEDIA.items():
        if key in {_key(other) for other in (hub_id, *also)}:
            return media_shape(hub_id)
    return None


def known_names() -> list[str]:
    """Hub ids, and their last parts, of all known models."""
    from advisor.media_shapes import MEDIA

    ids = [row.hub_id for row in KNOWN] + list(MEDIA)
    return [*ids, *(i.rpartition("/")[2] for i in ids), *(n for row in KNOWN for n in row.also)]


def config_of(row: Known) -> dict[str, Any]:
    """The row as a hub-style config."""
    return {
        "model_type": row.model_type,
        "hidden_size": row.hidden,
        "num_hidden_layers": row.layers,
        "num_attention_heads": row.heads,
        "num_key_value_heads": row.kv_heads,
        "intermediate_size": row.intermediate,
        "vocab_size": row.vocab,
        **row.extra,
    }


def _key(name: str) -> tuple[str, ...]:
    """What two spellings of one name have in common: `Llama-2-7b-hf`, `LLaMA 2 7B` and `llama2-7b` give one key."""
    words = re.findall(r"[a-z]+|\d+", name.lower().rpartition("/")[2])
    return tuple(word for word in words if word not in ("meta", "hf", "instruct", "chat", "it", "pt"))

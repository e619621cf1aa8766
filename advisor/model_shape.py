"""A model's shape without its weights, from a hub-style config.

Everything `advisor.estimate` computes follows from this one value. No torch and
no hub: a config is a few integers, and so is a parameter count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.errors import DataError

Kind = Literal["decoder", "encoder", "speech", "diffusion", "detection"]


class Linear(NamedTuple):
    """`copies` equal linear (or convolution) layers of the whole model, as LoRA sees them: r * (inputs + outputs) each."""

    part: str
    """q, k, v, qkv, o are attention; gate, up, gate_up, down are the MLP; conv is a convolution."""
    inputs: int
    outputs: int
    copies: int


@dataclass(frozen=True)
class ModelShape:
    name: str
    kind: Kind
    params: int
    """Stored parameters; a tied output layer counts once."""
    linears: tuple[Linear, ...]
    """What LoRA adapts and 4-bit loading quantises. The output layer (lm_head) is in neither, as in PEFT and bitsandbytes."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    """0 where there is no output over a vocabulary."""
    head_params: int = 0
    """Of an output layer with its own weights; a classification head replaces it."""
    active_params: int = 0
    """Parameters one token passes through; less than `params` in a mixture of experts. 0 means all."""
    element_scale: int = 0
    """Activation elements a sequence position adds: hidden x layers. 0: the input's size is fixed (images)."""
    fixed_elements: int = 0
    """Activation elements one sample adds whatever the sequence length: audio frames, pixels."""
    max_positions: int | None = None
    """Longest sequence the model takes, where the config says."""
    assumed: bool = False
    """Part of the shape is a guess (plain --params, or an unknown architecture): the range must be wider."""
    vocab_assumed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def linear_params(self) -> int:
        return sum(part.inputs * part.outputs * part.copies for part in self.linears)


class Family(NamedTuple):
    """What a hub `model_type` fixes and its config.json does not say."""

    gated: bool = True
    """gate, up and down instead of up and down."""
    fused: tuple[str, ...] = ()
    """Projections stored as one layer: qkv, gate_up. LoRA adapts the fused layer once."""
    qkv_bias: bool = False
    bias: bool = False
    """On every linear layer."""
    norms: int = 2
    """Per layer."""
    norm_bias: bool = False
    """LayerNorm (weight and bias) instead of RMSNorm."""
    final_norms: int = 1
    qk_norm: bool = False
    tied: bool = False
    """Where config.json does not say."""
    positions: int = 0
    """1: learned position embeddings; 2 or more: with that many extra rows less one (OPT pads two)."""
    head_bias: bool = False
    encoder: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "smollm3": Family(tied=True),
    "granite": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "qwen3_moe": Family(qk_norm=True),
    "gemma": Family(tied=True),
    "gemma2": Family(tied=True, norms=4),
    "gemma3_text": Family(tied=True, norms=4, qk_norm=True),
    "phi": Family(gated=False, bias=True, norms=1, norm_bias=True, head_bias=True),
    "phi3": Family(fused=("qkv", "gate_up")),
    "falcon": Family(gated=False, fused=("qkv",), norms=1, norm_bias=True, tied=True),
    "gpt2": Family(gated=False, fused=("qkv",), bias=True, norm_bias=True, tied=True, positions=1),
    "gpt_neox": Family(gated=False, fused=("qkv",), bias=True, norm_bias=True),
    "opt": Family(gated=False, bias=True, norm_bias=True, tied=True, positions=3),
    "starcoder2": Family(gated=False, bias=True, norm_bias=True, tied=True),
    "bert": Family(gated=False, bias=True, norm_bias=True, positions=1, encoder=True),
    "roberta": Family(gated=False, bias=True, norm_bias=True, positions=1, encoder=True),
    "xlm-roberta": Family(gated=False, bias=True, norm_bias=True, positions=1, encoder=True),
}

# Other architectures name the same thing otherwise (transformers' attribute_map).
_ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "vocab_size": ("vocab_size",),
    "head_dim": ("head_dim",),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
}
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def shape_from_config(config: Mapping[str, Any], name: str, path: Path | None = None) -> ModelShape:
    """Shape of a hub-style config, its parameters counted exactly for the families listed above.

    Raises:
        DataError: a key is missing or is not a positive whole number, or the heads do not fit.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and _raw(config, "hidden_size") is None:
        shape = shape_from_config(
            {"tie_word_embeddings": config.get("tie_word_embeddings", False), **inner}, name, path
        )
        return replace(shape, assumed=True, notes=(*shape.notes, "only the text part of a multimodal model is counted"))
    if config.get("is_encoder_decoder"):
        raise DataError("encoder-decoder models other than Whisper are not covered; give --params", path)
    if config.get("kv_lora_rank"):
        raise DataError("latent attention (kv_lora_rank) is not covered; give --params and a plain shape", path)
    missing = [key for key in _NEEDED if _raw(config, key) is None]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}; a hub-style config.json has them (or give --params)", path)
    return _transformer(config, name, path)


def _transformer(config: Mapping[str, Any], name: str, path: Path | None) -> ModelShape:
    model_type = str(config.get("model_type", "llama"))
    family = FAMILIES.get(model_type)
    notes: tuple[str, ...] = ()
    if family is None:
        notes = (f"model_type {model_type!r} is not known: counted as a decoder with a gated MLP",)
        assumed, family = True, FAMILIES["llama"]
    else:
        assumed = False
    hidden, layers, heads, vocab = (_count(config, key, path) for key in _NEEDED)
    kv_heads = (
        _falcon_kv_heads(config, heads)
        if model_type == "falcon"
        else _count(config, "num_key_value_heads", path, heads)
    )
    if _raw(config, "head_dim") is None and hidden % heads:
        raise DataError(f"num_attention_heads = {heads} does not divide hidden_size = {hidden}", path)
    head_dim = _count(config, "head_dim", path, hidden // heads)
    if heads % kv_heads:
        raise DataError(f"num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}", path)
    inter = _count(config, "intermediate_size", path, 4 * hidden)
    experts, active = _experts(config, path)
    if experts > 1:
        inter = _count(config, "moe_intermediate_size", path, inter)
        notes = (*notes, "mixture of experts: adapters sit on the attention only, compute counts the active experts")
    if model_type == "falcon" and config.get("new_decoder_architecture"):
        family = family._replace(norms=2)

    attention, mlp = _layer_linears(family, hidden, heads * head_dim, kv_heads * head_dim, inter)
    weights = sum(p.inputs * p.outputs for p in attention)
    mlp_weights = sum(p.inputs * p.outputs for p in mlp)
    bias = _biases(config, family, attention, mlp, heads * head_dim, kv_heads * head_dim)
    norm = hidden * (2 if family.norm_bias else 1)
    layer = weights + bias + family.norms * norm + (2 * head_dim if family.qk_norm else 0)
    router = experts * hidden if experts > 1 else 0
    tied = bool(config.get("tie_word_embeddings", family.tied))
    head = 0 if tied or family.encoder else vocab * hidden + (vocab if family.head_bias else 0)
    outside = vocab * hidden + head + _extra_embeddings(config, family, hidden, path) + family.final_norms * norm
    total = outside + layers * (layer + router + experts * mlp_weights)
    adapted = attention if experts > 1 else (*attention, *mlp)
    return ModelShape(
        name=name,
        kind="encoder" if family.encoder else "decoder",
        params=total,
        linears=tuple(p._replace(copies=layers) for p in adapted),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=0 if family.encoder else vocab,
        head_params=head,
        active_params=outside + layers * (layer + router + active * mlp_weights) if experts > 1 else 0,
        element_scale=hidden * layers,
        max_positions=_raw(config, "max_position_embeddings"),
        assumed=assumed,
        notes=notes,
    )


def _layer_linears(
    family: Family, hidden: int, query: int, kv: int, inter: int
) -> tuple[tuple[Linear, ...], tuple[Linear, ...]]:
    """(attention, MLP) of one layer; `query` and `kv` are the widths of the projections."""
    if "qkv" in family.fused:
        attention: Sequence[Linear] = [Linear("qkv", hidden, query + 2 * kv, 1)]
    else:
        attention = [Linear("q", hidden, query, 1), Linear("k", hidden, kv, 1), Linear("v", hidden, kv, 1)]
    up: Sequence[Linear]
    if "gate_up" in family.fused:
        up = [Linear("gate_up", hidden, 2 * inter, 1)]
    else:
        up = [Linear("gate", hidden, inter, 1)] * family.gated + [Linear("up", hidden, inter, 1)]
    return (*attention, Linear("o", query, hidden, 1)), (*up, Linear("down", inter, hidden, 1))


def _biases(
    config: Mapping[str, Any],
    family: Family,
    attention: Sequence[Linear],
    mlp: Sequence[Linear],
    query: int,
    kv: int,
) -> int:
    """Bias parameters of one layer."""
    everywhere = family.bias if "use_bias" not in config else bool(config["use_bias"])
    if everywhere or config.get("bias") is True:
        return sum(p.outputs for p in (*attention, *mlp))
    total = 0
    if config.get("attention_bias"):
        total += sum(p.outputs for p in attention)
    elif family.qkv_bias:
        total += query + 2 * kv
    if config.get("mlp_bias"):
        total += sum(p.outputs for p in mlp)
    return total


def _extra_embeddings(config: Mapping[str, Any], family: Family, hidden: int, path: Path | None) -> int:
    """Learned positions; in an encoder also token types, the embeddings' norm and the pooler, less the final norm."""
    rows = _count(config, "max_position_embeddings", path, 0) if family.positions else 0
    total = hidden * (rows + family.positions - 1) if rows else 0
    if family.encoder:
        types = config.get("type_vocab_size", 2)
        total += hidden * int(types) + hidden * hidden + hidden
    return total


def _falcon_kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("new_decoder_architecture"):
        return int(_raw(config, "num_key_value_heads") or heads)
    return 1 if config.get("multi_query", True) else heads


def _experts(config: Mapping[str, Any], path: Path | None) -> tuple[int, int]:
    """(experts of a layer, of which a token uses); (1, 1) for a dense model."""
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if config.get(key):
            if config.get("n_shared_experts") or config.get("shared_expert_intermediate_size"):
                raise DataError("shared experts are not covered; give --params and a plain shape", path)
            return int(config[key]), int(config.get("num_experts_per_tok", 2))
    return 1, 1


def _raw(config: Mapping[str, Any], key: str) -> Any:
    return next((config[alias] for alias in _ALIASES[key] if config.get(alias) is not None), None)


def _count(config: Mapping[str, Any], key: str, path: Path | None, default: int | None = None) -> int:
    value = _raw(config, key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{key} = {value!r} is not a positive whole number", path)
    return value

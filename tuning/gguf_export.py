"""Models and adapters as GGUF files, so that llama.cpp and what is built on it (Ollama, LM Studio) serve the same tokens.

For models of the Llama architecture with a byte-level BPE vocabulary. llama.cpp turns pairs of neighbouring dimensions
where transformers turns the two halves of a head, so the rows of every query and key weight are interleaved on the way
out; the layout is that of llama.cpp's convert_hf_to_gguf.py and convert_lora_to_gguf.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import ConfigError
from core.files import sha256_text
from tuning.adapters import check_base

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Token types of llama.cpp."""


def export_model(model: Path, target: Path, name: str) -> None:
    """Write the model in the folder `model` (a merged one, say) to the file `target`, matrices in 16 bits.

    Raises:
        ConfigError: the architecture or the tokenizer is one that this file does not know, or `target` is there already.
    """
    from gguf import GGUFWriter

    _absent(target)
    config = _config(model)
    with _written(GGUFWriter, target) as writer:
        writer.add_type("model")
        writer.add_name(name)
        _add_architecture(writer, config)
        _add_tokenizer(writer, model, int(config["vocab_size"]))
        for key, tensor in _tensors(model):
            if key == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            writer.add_tensor(_gguf_name(key, config), _stored(_permuted(key, tensor, config)))


def export_adapter(adapter: Path, base_model: str, base: Path, target: Path) -> None:
    """Write the LoRA adapter in the folder `adapter` of the model in `base` to the file `target`.

    Raises:
        ConfigError: the base's architecture is unknown here, the adapter is more than pairs of matrices, or `target` is
            there already.
        ArtifactError: the adapter is of another base.
    """
    from gguf import GGUFWriter

    from core.engines.lora import read_adapter

    _absent(target)
    origin = check_base(adapter, base_model, base)
    config = _config(base)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    parts = read_adapter(adapter, origin.base_model)
    with _written(GGUFWriter, target) as writer:
        writer.add_type("adapter")
        writer.add_name(f"adapter of {origin.base_model}")
        writer.add_string("adapter.type", "lora")
        # llama.cpp scales by alpha / rank; the scaling of rsLoRA and rank patterns is in `up` already, so alpha = rank.
        writer.add_float32("adapter.lora.alpha", float(settings["r"]))
        if origin.template_sha256 is not None:
            writer.add_string("tunefork.template_sha256", origin.template_sha256)
        for module, part in parts.items():
            key = f"{module}.weight"
            up = part.up * (settings["r"] / len(part.down))
            stem = _gguf_name(key, config)
            writer.add_tensor(f"{stem}.lora_a", _array(part.down.float()))
            writer.add_tensor(f"{stem}.lora_b", _array(_permuted(key, up.float(), config)))


class _Written:
    """A GGUFWriter whose file appears under its name only once it is whole."""

    def __init__(self, make: Any, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = target.with_name(f".{target.name}.tmp")
        self._target = target
        self._writer = make(self._temporary, "llama")

    def __enter__(self) -> Any:
        return self._writer

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._writer.write_header_to_file()
                self._writer.write_kv_data_to_file()
                self._writer.write_tensors_to_file()
        finally:
            self._writer.close()
        if kind is None:
            self._temporary.replace(self._target)
        else:
            self._temporary.unlink(missing_ok=True)


def _written(make: Any, target: Path) -> _Written:
    return _Written(make, target)


def _absent(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target}: is there already; name a new file")


def _config(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    config: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    kind = config.get("model_type")
    rope = config.get("rope_parameters") or {}
    if kind != "llama" or rope.get("rope_type", "default") != "default" or config.get("attention_bias"):
        what = f"type {kind!r}" if kind != "llama" else "this variant of Llama (scaled RoPE or biases)"
        raise ConfigError(
            f"{folder}: models of {what} are not exported to GGUF here; merge the adapter (--merge) and use llama.cpp's"
            " convert_hf_to_gguf.py"
        )
    return config


def _add_architecture(writer: Any, config: dict[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float((config.get("rope_parameters") or config)["rope_theta"]))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_vocab_size(int(config["vocab_size"]))
    if _head_dim(config) * heads != config["hidden_size"]:
        writer.add_key_length(_head_dim(config))
        writer.add_value_length(_head_dim(config))
    writer.add_file_type(1)  # most tensors in 16 bits


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_tokenizer(writer: Any, folder: Path, size: int) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if described["model"]["type"] != "BPE" or described["model"].get("byte_fallback"):
        raise ConfigError(f"{folder}: its tokenizer is not a byte-level BPE; only those are exported to GGUF here")
    added = {entry["id"]: entry for entry in described["added_tokens"]}
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for number in range(size):
        if number not in names:
            tokens.append(f"[PAD{number}]")
            types.append(_UNUSED)
        else:
            tokens.append(names[number])
            entry = added.get(number)
            types.append(_NORMAL if entry is None else _CONTROL if entry["special"] else _USER_DEFINED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(described["pre_tokenizer"], folder))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_space_prefix(False)
    # The template writes the first token itself where the model wants one.
    writer.add_add_bos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
        writer.add_string("tunefork.template_sha256", sha256_text(str(tokenizer.chat_template)))


def _pre_tokenizer(described: dict[str, Any] | None, folder: Path) -> str:
    """llama.cpp's name for the way the tokenizer cuts a text before it merges."""
    parts = (described or {}).get("pretokenizers") or [described or {}]
    kinds = [(part.get("type"), part.get("use_regex", True)) for part in parts]
    if kinds == [("ByteLevel", True)]:
        return "gpt-2"
    if kinds == [("Digits", True), ("ByteLevel", True)] and parts[0].get("individual_digits"):
        return "smollm"
    raise ConfigError(f"{folder}: its pre-tokenizer {kinds} has no known name in llama.cpp; use convert_hf_to_gguf.py")


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by name, one file open at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in sorted(file.keys()):
                yield key, file.get_tensor(key)


def _gguf_name(key: str, config: dict[str, Any]) -> str:
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.LLAMA, int(config["num_hidden_layers"]))
    name = names.get_name(
        key if key.startswith(("model.", "lm_head")) else f"model.{key}", try_suffixes=(".weight", ".bias")
    )
    if name is None:
        raise ConfigError(f"the weight {key!r} has no place in a Llama GGUF file")
    return str(name)


def _permuted(key: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Rows of a query or key weight (or of its adapter's upper matrix) in llama.cpp's order."""
    heads = int(config["num_attention_heads"])
    count = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}.get(key.split(".")[-2])
    return tensor if count is None else interleaved(tensor, count)


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[heads * dim, n] with the two halves of each head's rows shuffled like cards: 0, d/2, 1, d/2 + 1, ..."""
    rows = tensor.shape[0]
    return tensor.view(heads, 2, rows // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _stored(tensor: torch.Tensor) -> NDArray[Any]:
    """Vectors in fp32, matrices in fp16, as llama.cpp expects of a 16-bit file."""
    return _array(tensor.float()) if tensor.ndim < 2 else _array(tensor.float()).astype(np.float16)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())

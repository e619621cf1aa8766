"""From what a user names to a model's shape: a known name, a folder, a config.json or a GGUF file.

Nothing is downloaded and no tensor is read: of weights only the header counts.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.known_models import known_names, known_shape
from advisor.media_shapes import whisper
from advisor.model_shape import ModelShape, shape_from_config
from core.errors import ConfigError, DataError, UnknownName


def resolve(name: str) -> ModelShape:
    """Shape of `--model NAME`: a folder, a config.json, a GGUF file, or a known name. Nothing is downloaded.

    Raises:
        UnknownName: neither a path nor a known name; lists near ones.
        ConfigError | DataError: a path that cannot be used.
    """
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")) or name.endswith((".json", ".gguf")):
        return shape_from_path(path)
    if "@http" in name:
        raise ConfigError(
            f"model {name!r} is behind an endpoint, its shape is not known here; give --params (such as 7e9)"
        )
    shape = known_shape(name)
    if shape is None:
        hint = "(a known name, a folder, or say the shape: --config config.json, or --params 7e9)"
        raise UnknownName("model", name, known_names(), hint=hint)
    return shape


def shape_from_path(path: Path) -> ModelShape:
    """Shape of a config.json, a folder that holds one, or a GGUF file; tensors are not read, only their headers."""
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise ConfigError(f"{path}: not a model folder (no config.json)")
        shape = shape_from_path(config)
        stored = _safetensors_params(path)
        return shape if stored is None else replace(shape, params=stored, name=path.resolve().name)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; give a hub-style config.json, a model folder, or --params (such as 7e9)"
        )
    if path.suffix == ".gguf":
        return _shape_from_gguf(path)
    try:
        config_json = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from exc
    except UnicodeDecodeError as exc:
        raise DataError("not a config.json (not UTF-8 text)", path) from exc
    except json.JSONDecodeError as exc:
        raise DataError(f"not valid JSON: {exc.msg}", path, exc.lineno) from exc
    if not isinstance(config_json, dict):
        raise DataError(f"not a config.json (a {type(config_json).__name__}, not an object)", path)
    name = path.resolve().parent.name
    if config_json.get("model_type") == "whisper":
        return whisper(name, config_json, path)
    return shape_from_config(config_json, name, path)


def _safetensors_params(folder: Path) -> int | None:
    """Parameters by the headers of the folder's safetensors files; None without any, or where they are packed (GPTQ, AWQ)."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= file.stat().st_size:
                raise DataError("not a safetensors file (its header is damaged)", file)
            try:
                header = json.loads(stream.read(length))
            except ValueError as exc:
                raise DataError("not a safetensors file (its header is damaged)", file) from exc
        for key, tensor in header.items():
            if key == "__metadata__":
                continue
            if tensor["dtype"] not in ("F16", "BF16", "F32"):
                return None
            total += math.prod(tensor["shape"])
    return total or None


def _shape_from_gguf(path: Path) -> ModelShape:
    """Shape by a GGUF file's metadata; the tensors' own shapes give the count."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as exc:
        raise DataError(f"not a GGUF file ({exc})", path) from exc

    def field(key: str) -> Any:
        entry = reader.fields.get(key)
        return None if entry is None else entry.contents()

    arch = str(field("general.architecture"))
    sizes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}
    embedding = sizes.get("token_embd.weight", [0, 0])
    config = {
        "model_type": arch,
        "hidden_size": field(f"{arch}.embedding_length"),
        "num_hidden_layers": field(f"{arch}.block_count"),
        "num_attention_heads": field(f"{arch}.attention.head_count"),
        "num_key_value_heads": field(f"{arch}.attention.head_count_kv"),
        "intermediate_size": field(f"{arch}.feed_forward_length"),
        "head_dim": field(f"{arch}.attention.key_length"),
        "max_position_embeddings": field(f"{arch}.context_length"),
        "vocab_size": embedding[1],
        "tie_word_embeddings": "output.weight" not in sizes,
    }
    shape = shape_from_config(config, path.stem, path)
    note = "the file's own quantisation is not counted: the estimate is for weights loaded by --dtype and --bits"
    params = sum(math.prod(size) for size in sizes.values())
    return replace(shape, params=params, notes=(*shape.notes, note))

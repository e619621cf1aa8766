"""The adapter registry: what a trained folder says about itself, and what its loader insists on.

An adapter or head is a folder of safetensors and JSON (never pickle) with an origin.json. Loading it against
another base than it was trained on is refused: the shapes may fit and the answers be nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ArtifactError, ConfigError, OtherBase
from core.files import read_json, staged_folder, write_json, write_text
from core.remedy import Method

ORIGIN = "origin.json"
_SAMPLE = 1 << 16
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.joblib")


class Origin(BaseModel):
    """Where an adapter comes from: enough to refuse a wrong base and to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: Method
    base_model: str
    """Of a head: the sentence encoder. Of a full model: what it was before."""
    base_fingerprint: str
    template_sha256: str | None = None
    """Of the chat template a LoRA adapter was trained with."""
    instruction: str = ""
    """The system prompt its training rows had; serving must send the same."""
    data: dict[str, Any]
    """`file` name, `sha256` of the rows used (inputs and answers, in order), `rows`, `dev_rows`."""
    recipe: dict[str, Any]
    scores: dict[str, Any]
    train_s: float
    """Wall time of the training, loading and encoding included; over all attempts where it was resumed."""
    versions: dict[str, str]
    created: str


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write an artifact into; it becomes `target` when the block ends well.

    An empty folder that is there already (a version that its registry is staging) is written into directly.

    Raises:
        ArtifactError: `target` holds something.
    """
    if target.is_dir():
        if any(target.iterdir()):
            raise ArtifactError(f"{target}: is not empty; name a new folder for the adapter")
        yield target
    else:
        with staged_folder(target) as staging:
            yield staging


def save_origin(folder: Path, origin: Origin) -> None:
    """Write origin.json and the model card into `folder`."""
    write_text(folder / "README.md", model_card(origin))
    write_json(folder / ORIGIN, origin.model_dump(mode="json"))


def model_card(origin: Origin) -> str:
    """A README.md for the folder, in the form the hub reads; no path of this machine is in it."""
    data, scores = origin.data, origin.scores
    what = {"lora": "LoRA adapter", "full": "fine-tuned model", "head": "classification head"}[origin.method]
    library = {"lora": "peft", "full": "transformers", "head": "tunefork"}[origin.method]
    shown = "\n".join(f"| {key} | {value} |" for key, value in scores.items() if value is not None)
    return (
        f"---\nbase_model: {origin.base_model}\nlibrary_name: {library}\n---\n\n"
        f"# {what} on {origin.base_model}\n\n"
        f"Trained by Tunefork on {data['rows']} rows ({data['dev_rows']} more held out) in {origin.train_s:.0f} s,"
        f" {origin.created}. origin.json has the recipe and the hashes of base and data.\n\n"
        f"| score | value |\n|---|---|\n{shown}\n"
    )


def load_origin(folder: Path) -> Origin:
    """Raises ArtifactError when `folder` is not an adapter, is damaged, or holds pickled weights."""
    if not (folder / ORIGIN).is_file():
        raise ArtifactError(f"{folder}: not an adapter of Tunefork (no {ORIGIN}); train it again with `tunefork tune`")
    try:
        origin = Origin.model_validate(read_json(folder / ORIGIN))
    except ValidationError as exc:
        raise ArtifactError(f"{folder / ORIGIN}: {exc.errors()[0]['msg']}; train it again") from exc
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ArtifactError(f"{folder}: holds {pickles[0]}, a pickle that could run code; only safetensors are loaded")
    return origin


def check_base(folder: Path, base_model: str, base_folder: Path) -> Origin:
    """The origin of the adapter in `folder`, once it is certain that it was trained on the model in `base_folder`.

    Raises:
        OtherBase: it was trained on another base; names both.
    """
    origin = load_origin(folder)
    if origin.base_fingerprint != base_fingerprint(base_folder):
        other = "other weights of that name" if origin.base_model == base_model else f"{base_model!r}"
        raise OtherBase(
            f"{folder}: was trained on {origin.base_model!r} and cannot be used with {other};"
            f" name the right base model, or tune {base_model!r} anew"
        )
    return origin


def base_fingerprint(folder: Path) -> str:
    """Hash of what makes the model in `folder` this model: its tensors' names, shapes, types and a sample of each file.

    Reads a few kilobytes however large the model is. Configuration is left out: a newer transformers writes it
    differently for the same weights.

    Raises:
        ConfigError: there are no safetensors in `folder`.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder}: no *.safetensors in this model folder; convert the weights to safetensors first")
    tensors: dict[str, Any] = {}
    samples: list[tuple[str, bytes]] = []
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
            header.pop("__metadata__", None)
            tensors |= {name: [entry["dtype"], entry["shape"]] for name, entry in header.items()}
            for name in (min(header), max(header)) if header else ():
                start, end = header[name]["data_offsets"]
                file.seek(8 + size + start)
                samples.append((name, file.read(min(_SAMPLE, end - start))))
    digest = sha256(json.dumps(tensors, sort_keys=True).encode())
    for name, data in sorted(samples):
        digest.update(name.encode() + data)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of what the training depends on."""
    found = {}
    for name in ("tunefork", "torch", "transformers", "peft", "sentence-transformers", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

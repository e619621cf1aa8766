"""An adapter taken into its base model's weights: a full model that any engine loads, checked against the pair."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import ArtifactError, ConfigError
from core.files import staged_folder, write_json
from tuning.adapters import check_base
from tuning.examples import TrainingTokenizer
from tuning.general import ITEMS, general_set

PROBES = 12
"""Prompts whose logits are compared."""
TOLERANCE = 1e-3
"""Largest difference of a logit in fp32, relative to the largest logit, that summing in another order explains."""


@dataclass(frozen=True)
class MergeReport:
    folder: Path
    merged_difference: float
    """Largest difference of a logit between base + adapter and the merged model, both in fp32."""
    saved_difference: float
    """The same for the saved model, which is rounded to the base's number format."""
    same_next_token: float
    """Share of positions at which the saved model finds the same token most probable."""
    positions: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def merge_adapter(adapter: Path, base_model: str, base: Path, target: Path) -> MergeReport:
    """Write the base in the folder `base` with `adapter` merged into `target`, a new folder.

    Raises:
        ConfigError: `target` is there already.
        ArtifactError: the adapter is a head or of another base, or the merged model answers otherwise.
    """
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    origin = check_base(adapter, base_model, base)
    if origin.method != "lora":
        raise ArtifactError(f"{adapter}: is a {origin.method}, not a LoRA adapter; only an adapter can be merged")
    if target.exists():
        raise ConfigError(f"{target}: is there already; name a new folder")
    probes = _probes(base)
    stored = AutoConfig.from_pretrained(base).dtype or torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    before = _logits(model, probes)
    model = model.merge_and_unload()
    merged_difference, _ = _compare(before, _logits(model, probes))
    if merged_difference > TOLERANCE * float(before.abs().max()):
        raise ArtifactError(
            f"{adapter}: merged, its logits differ by {merged_difference:.3g}; it cannot be merged into {base_model!r}"
        )
    with staged_folder(target) as folder:
        model.to(stored).save_pretrained(folder)
        copy_tokenizer(base, folder)
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        saved_difference, same = _compare(before, _logits(saved, probes))
        report = MergeReport(target, merged_difference, saved_difference, same, before.shape[0])
        about = {"merged_from": origin.model_dump(mode="json"), "check": report.to_json() | {"folder": target.name}}
        write_json(folder / "origin.json", about)
    return report


def copy_model(model: Path, target: Path) -> None:
    """Copy the fully fine-tuned model in the folder `model` to `target`, a new folder. It is as it was trained.

    Raises:
        ConfigError: `target` is there already.
    """
    if target.exists():
        raise ConfigError(f"{target}: is there already; name a new folder")
    with staged_folder(target) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)


def _probes(base: Path) -> list[torch.Tensor]:
    """Prompts and right answers of the first general questions, as token ids."""
    examples = general_set(TrainingTokenizer(base)).examples
    per_item = len(examples) // len(ITEMS.read_text(encoding="utf-8").splitlines())
    return [torch.tensor([example.ids]) for example in examples[: PROBES * per_item : per_item]]


def _logits(model: Any, probes: list[torch.Tensor]) -> torch.Tensor:
    """[positions of all probes, vocabulary]"""
    with torch.no_grad():
        return torch.cat([model(input_ids=ids).logits[0].float() for ids in probes])


def _compare(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Largest difference, and the share of rows with the same largest entry."""
    return float((a - b).abs().max()), float((a.argmax(-1) == b.argmax(-1)).float().mean())


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Tokenizer, template and generation settings exactly as the base has them."""
    for pattern in (
        "token*",
        "special_tokens_map.json",
        "vocab*",
        "merges.txt",
        "*.jinja",
        "generation_config.json",
        "*.model",
    ):
        for path in base.glob(pattern):
            if path.is_file() and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)

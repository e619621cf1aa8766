"""How to train: the settings of both methods, each default with the reason for it.

A recipe is written into the run and into the artifact's origin.json, so a build can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


class LoraRecipe(BaseModel):
    """A LoRA adapter on every linear layer of the base model's body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1, le=256)
    """16 on all layers beats a higher rank on the attention alone (Dettmers 2023, QLoRA, fig. 2; "LoRA without
    regret", 2025); vLLM serves up to 64 unless told otherwise."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale alpha / rank = 2, the common setting (PEFT's and QLoRA's examples)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """0: with 1-5 epochs and early stopping it bought nothing, and it costs a mask on every layer."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """About 10x the rate of full fine-tuning; see docs/tuning.md for the sweep on the starter model."""
    epochs: float = Field(default=3.0, gt=0)
    batch_rows: int = Field(default=8, ge=1)
    """Rows an optimizer step. Small: LoRA loses more than full fine-tuning from large batches ("LoRA without regret")."""
    batch_tokens: int = Field(default=2048, ge=64)
    """Most tokens, padding counted, of one forward pass; a step over more rows accumulates. Bounds memory, not results."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with a rising rate; then linear decay to zero (D2Z, Bergsma 2025)."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_rows: int | None = Field(default=None, ge=2)
    """Train on that many rows, drawn by `seed`; None: all."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Plan fewer steps when the measured speed says that the epochs would take longer."""
    dev_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the rows held out to choose the best weights; none under 20 rows."""
    max_dev_rows: int = Field(default=100, ge=1)
    patience: int = Field(default=2, ge=1)
    """Evaluations on the dev rows without a better loss before training stops."""
    skip_long: bool = False
    """Leave out rows longer than the context, and say how many; False: refuse them."""
    device: Device = "auto"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    seed: int = 0


class HeadRecipe(BaseModel):
    """A logistic head on the features of a sentence encoder; the encoder's top layers follow where that helps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strengths: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    """Inverse L2 penalties C to choose among by cross-validated log loss."""
    folds: int = Field(default=3, ge=2, le=10)
    """3 of 10,003 BANKING77 rows choose the same C as 10 do."""
    max_rows: int | None = Field(default=None, ge=2)
    unfreeze: bool = False
    """Then train the encoder's layers too, from the top, while the dev score improves."""
    unfreeze_stages: tuple[int, ...] = (2, 4, 6)
    """How many of the top layers each stage trains."""
    unfreeze_epochs: int = Field(default=2, ge=1)
    """Epochs a stage."""
    unfreeze_learning_rate: float = Field(default=1e-4, gt=0)
    """Of the top layer; each layer below it trains at `unfreeze_decay` of the one above (ULMFiT, Howard & Ruder 2018)."""
    unfreeze_decay: float = Field(default=0.8, gt=0, le=1)
    unfreeze_batch_rows: int = Field(default=32, ge=1)
    dev_share: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the rows the unfreezing is judged on."""
    abstain_below: float | None = Field(default=None, gt=0, lt=1)
    """Answer `abstain_answer` where the best label's probability is lower; None: always answer with a label."""
    abstain_answer: str = "none of the labels"
    device: Device = "auto"
    seed: int = 0


def parse_recipe(kind: type[LoraRecipe] | type[HeadRecipe], values: Mapping[str, Any]) -> LoraRecipe | HeadRecipe:
    """The recipe with those `values` that are not None over its defaults.

    Raises:
        ConfigError: an unknown setting or a value out of range; names it.
    """
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"recipe: {key} = {first['input']!r}: {first['msg']}") from exc

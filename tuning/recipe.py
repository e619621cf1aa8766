"""How to train: the settings of each method, each default with the reason for it.

A recipe is written into the run and into the artifact's origin.json, so a build can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError, MissingExtra

Device = Literal["auto", "cpu", "cuda"]


class LanguageRecipe(BaseModel):
    """What teaching a language model by rows takes, whichever of its weights learn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float | None = Field(default=None, gt=0)
    """None: of a LoRA adapter 5e-4 * (2000 / hidden size) ** .781 ("LoRA without regret", 2025; the exponent is the one
    its authors fitted on Llamas), which is ten times full fine-tuning's (same source). 1.3e-3 for an adapter of the
    starter model, whose best rates lie from 1e-3 to 2e-3."""
    epochs: float | None = Field(default=None, gt=0)
    """None: 5 * sqrt(200 / rows), from 1 to 10. Few rows are short of steps; early stopping bounds the harm."""
    batch_rows: int | None = Field(default=None, ge=1)
    """Rows an optimizer step, over all processes. None: 4 under 500 rows, else 8. Small, since LoRA loses more than full
    fine-tuning from large batches (same source): 200 rows, 3 epochs, rate 2e-3 gave 46 % with 4 and 39 % with 8."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one forward pass; a step over more accumulates. Bounds memory, not results. None: 512 on a CPU,
    4,096 on a GPU."""
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
    patience: int = Field(default=3, ge=1)
    """Evaluations on the dev rows, of 8, that gain neither in loss nor in right answers before training stops."""
    checkpointing: bool = False
    """Keep only each layer's input and compute the rest anew going back: a third more time, a fraction of the
    activations (Chen 2016)."""
    neftune: float = Field(default=0.0, ge=0)
    """Uniform noise on the input embeddings, alpha / sqrt(tokens * hidden size) (Jain 2023); 5 is its authors' start."""
    harm_check: bool = True
    """Ask the model 40 general questions before and after, and warn when it answers fewer."""
    skip_long: bool = False
    """Leave out rows longer than the context, and say how many; False: refuse them."""
    device: Device = "auto"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    seed: int = 0


class LoraRecipe(LanguageRecipe):
    """A LoRA adapter on every linear layer of the base model's body."""

    rank: int = Field(default=16, ge=1, le=256)
    """16 on all layers beats a higher rank on the attention alone (Dettmers 2023, QLoRA, fig. 2; "LoRA without
    regret", 2025); vLLM serves up to 64 unless told otherwise."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale alpha / rank = 2, the common setting (PEFT's and QLoRA's examples)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """0: with 1-5 epochs and early stopping it bought nothing, and it costs a mask on every layer."""
    dora: bool = False
    """Weight-decomposed LoRA: closer to full fine-tuning at ranks under 8 (Liu 2024), slower here; engines that mix
    adapters cannot serve it, so it has to be merged (`tunefork export --merge`)."""
    rslora: bool = False
    """Scale alpha / sqrt(rank) (Kalajdzievski 2023), which keeps high ranks learning."""
    init: Literal["zero", "pissa", "loftq"] = "zero"
    """What the adapter is at first: no change; the weights' largest singular directions (PiSSA, Meng 2024); what the
    4-bit rounding took from the weights (LoftQ, Li 2023). The last two are saved as a plain adapter of twice the rank."""
    bits: Literal[4, 16] = 16
    """4: the base in NF4 while training (QLoRA, Dettmers 2023), through bitsandbytes."""


class FullRecipe(LanguageRecipe):
    """All weights of the base model; the result is a model of its own."""

    checkpoint_seconds: float = Field(default=300.0, gt=0)
    """A checkpoint holds 20 bytes a parameter."""


class SettledLora(LoraRecipe):
    """A LoRA recipe with nothing left open."""

    learning_rate: float
    epochs: float
    batch_rows: int


class SettledFull(FullRecipe):
    """The same of full fine-tuning."""

    learning_rate: float
    epochs: float
    batch_rows: int


Settled = SettledLora | SettledFull


@overload
def settle(recipe: LoraRecipe, rows: int, hidden: int, processes: int = 1) -> SettledLora: ...
@overload
def settle(recipe: FullRecipe, rows: int, hidden: int, processes: int = 1) -> SettledFull: ...
def settle(recipe: LoraRecipe | FullRecipe, rows: int, hidden: int, processes: int = 1) -> Settled:
    """`recipe` with what it leaves open decided for that many rows, a model of that hidden size, and so many processes.

    Each process has a row a step at least where the recipe leaves the rows open.
    """
    values = recipe.model_dump()
    lora = isinstance(recipe, LoraRecipe)
    open_values = {
        "learning_rate": (5e-4 if lora else 5e-5) * (2000 / hidden) ** 0.781,
        "epochs": min(10.0, max(1.0, 5 * (200 / rows) ** 0.5)),
        "batch_rows": max(4 if rows < 500 else 8, processes),
    }
    settled = values | {key: value for key, value in open_values.items() if values[key] is None}
    return SettledLora(**settled) if lora else SettledFull(**settled)


def check_variant(recipe: LoraRecipe) -> None:
    """Raises ConfigError where the flags exclude each other, MissingExtra where bitsandbytes is not installed."""
    if recipe.init == "loftq" and recipe.bits != 4:
        raise ConfigError("--init loftq makes up for what 4 bits lose; it needs --bits 4")
    if recipe.bits == 4 and (recipe.init == "pissa" or recipe.dora):
        raise ConfigError(f"--bits 4 does not go with {'--dora' if recipe.dora else '--init pissa'}; --init loftq does")
    if recipe.bits == 4 and find_spec("bitsandbytes") is None:
        raise MissingExtra("a base in 4 bits", "qlora")


class HeadRecipe(BaseModel):
    """A logistic head on the features of a sentence encoder; the encoder's top layers follow where that helps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Literal["single", "multi", "number"] = "single"
    """One label a row; several (an answer lists them with commas, or the row's `labels` field does); a number."""
    features: Literal["encoder", "base"] = "encoder"
    """What the head reads: the sentence encoder's vector, or the mean of the base model's last hidden state."""
    strengths: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    """Inverse L2 penalties C to choose among by cross-validated log loss."""
    folds: int = Field(default=3, ge=2, le=10)
    """3 of 10,003 BANKING77 rows choose the same C as 10 do."""
    max_rows: int | None = Field(default=None, ge=2)
    unfreeze: bool = False
    """Then train the encoder's layers too, from the top, while the dev score improves."""
    unfreeze_stages: tuple[int, ...] = (6,)
    """How many of the top layers each stage trains. All of MiniLM's at once, the lower ones slower: on 1,000 dev rows of
    BANKING77, 94.0 % right where the frozen encoder has 93.1."""
    unfreeze_epochs: int = Field(default=4, ge=1)
    """Epochs a stage."""
    unfreeze_learning_rate: float = Field(default=3e-4, gt=0)
    """Of the top layer; each layer below it trains at `unfreeze_decay` of the one above (ULMFiT, Howard & Ruder 2018)."""
    unfreeze_decay: float = Field(default=0.9, gt=0, le=1)
    unfreeze_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Of the labels while training (Szegedy 2016)."""
    unfreeze_batch_rows: int = Field(default=32, ge=1)
    dev_share: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the rows the unfreezing is judged on."""
    abstain_below: float | None = Field(default=None, gt=0, lt=1)
    """Answer `abstain_answer` where the best label's probability is lower; None: always answer with a label."""
    precision: float | None = Field(default=None, gt=0, lt=1)
    """Choose `abstain_below` so that this share of the answered rows is right in cross-validation."""
    abstain_answer: str = "none of the labels"
    device: Device = "auto"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """Between two checkpoints of an unfreezing."""
    seed: int = 0


def check_head(recipe: HeadRecipe) -> None:
    """Raises ConfigError where one flag of a head would undo another, or do nothing."""
    abstains = [
        flag for flag, value in (("--precision", recipe.precision), ("--abstain-below", recipe.abstain_below)) if value
    ]
    if len(abstains) == 2:
        raise ConfigError("--precision chooses what --abstain-below states; give one of them")
    if abstains and recipe.task == "number":
        raise ConfigError(f"{abstains[0]} is for labels; a number has no probability to abstain below")
    if not abstains and recipe.abstain_answer != HeadRecipe.model_fields["abstain_answer"].default:
        raise ConfigError("--abstain-answer is said where a head abstains; it needs --abstain-below or --precision")


S = TypeVar("S", bound=BaseModel)


def parse_recipe(kind: type[S], values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> S:
    """A recipe of that kind with those `values` that are not None over its defaults.

    Args:
        names: what the user calls a setting, as a flag, where that is not its name.

    Raises:
        ConfigError: an unknown setting or a value out of range; names it.
    """
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        told = (names or {}).get(key, f"recipe: {key}")
        raise ConfigError(f"{told} = {first['input']!r}: {first['msg'].replace('Input should', 'it has to')}") from exc

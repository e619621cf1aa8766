"""What learns: the base model with a LoRA pair on every linear layer, or the base model itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tuning import fused
from tuning.device import fast_bfloat16
from tuning.merge import copy_tokenizer
from tuning.processes import Team
from tuning.recipe import Settled, SettledLora, check_variant
from tuning.sharded import check_sharding, shard_layers

SHORT = 512
"""Up to this many tokens a pass, plain attention beats torch's blocked one on a CPU, whose backward pass is slow
(1.35 times the tokens/s at 60 tokens, equal at 512); at 2,048 it has a third of its speed."""


# Where it lacks an optional kernel it warns of that with every import of PEFT, though it has others.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Learner:
    """A model with some weights that learn; all others are frozen."""

    base: Path
    model: Any
    """What is saved: the PEFT model, or the model itself."""
    causal: Any
    """What computes: the transformers model, with the adapter in it where there is one."""
    sharded: int = 0
    """Layers of which this process holds a part only."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, folder: Path, initial: Path | None = None) -> None:
        """Write an adapter as plain PEFT reads it, or a whole model with its tokenizer.

        Args:
            initial: the adapter it began with (`save_initial`), where that was a change of its own; it is taken off.
        """
        if self.model is self.causal:
            self.model.save_pretrained(folder)
            copy_tokenizer(self.base, folder)
            return
        converted = {} if initial is None else {"path_initial_model_for_weight_conversion": str(initial)}
        self.model.save_pretrained(folder, save_embedding_layers=False, **converted)

    def save_initial(self, folder: Path) -> Path:
        """The adapter as it is now, which has to be taken off again to get a change to the base model."""
        config = self.model.peft_config["default"]
        config.init_lora_weights, kind = True, config.init_lora_weights
        self.model.save_pretrained(folder, save_embedding_layers=False)
        config.init_lora_weights = kind
        return folder


def make_learner(base: Path, recipe: Settled, device: torch.device, longest: int, team: Team | None = None) -> Learner:
    """The model in the folder `base`, ready to learn by `recipe` on rows of up to `longest` tokens.

    Args:
        team: the processes that learn together; where they shard, each holds its part of the frozen layers.

    Raises:
        MissingExtra: 4 bits are asked for and bitsandbytes is not installed.
        ConfigError: the recipe contradicts itself.
    """
    bits = recipe.bits if isinstance(recipe, SettledLora) else 16
    if isinstance(recipe, SettledLora):
        check_variant(recipe)
    team = team or Team()
    check_sharding(recipe, team)
    causal = _load(base, device, longest, bits, whole=not team.shards)
    if recipe.checkpointing:
        # Without reentrance the frozen embeddings' outputs need no gradient of their own.
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(recipe.seed)
    model = _adapted(causal, recipe) if isinstance(recipe, SettledLora) else causal
    if isinstance(recipe, SettledLora) and recipe.init == "loftq":
        _compensate(model, base)
    model.train()
    sharded = 0
    if team.shards:
        sharded = shard_layers(causal, [p for p in model.parameters() if p.requires_grad], device, team.size)
    return Learner(base, model, causal, sharded)


def _load(base: Path, device: torch.device, longest: int, bits: int, whole: bool = True) -> Any:
    """The model on `device`, or on the CPU where it is not to be there as a `whole`."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    fused.register_attention()
    options: dict[str, Any] = {"attn_implementation": "sdpa"}
    if device.type == "cpu" and longest <= SHORT:
        options["attn_implementation"] = fused.ATTENTION
    if bits == 4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = {"": str(device)}
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **options)
    if bits == 16:
        causal = causal.to(device if whole else "cpu")
    else:
        from bitsandbytes.nn import Linear4bit

        for layer in causal.modules():
            if isinstance(layer, Linear4bit):
                # An evaluation would pack the weights for a CPU product that has no gradient, and training go on with it.
                layer.support_avx512bf16_for_cpu = False
    if getattr(causal.config.get_text_config(), "attn_logit_softcapping", None):
        causal.set_attn_implementation("eager")  # the others leave the cap out
    return causal


def _adapted(causal: Any, recipe: SettledLora) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_dora=recipe.dora,
        use_rslora=recipe.rslora,
        init_lora_weights="pissa_niter_4" if recipe.init == "pissa" else True,
    )
    causal.requires_grad_(False)
    model = get_peft_model(causal, config, autocast_adapter_dtype=False)
    fused.fuse_lora(model)
    return model


@torch.no_grad()
def _compensate(model: Any, base: Path) -> None:
    """Begin with what rounding to 4 bits took from each weight, as near as the rank allows (LoftQ, one iteration).

    PEFT's `replace_lora_weights_loftq` does the same on a GPU only, and leaves out that an adapter's product is scaled.
    """
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora.bnb import Linear4bit
    from safetensors import safe_open

    files: dict[str, Path] = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    for name, layer in model.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        key = f"{name.removeprefix('base_model.model.')}.weight"
        with safe_open(files[key], "pt") as file:
            exact = file.get_tensor(key).float()
        rounded = layer.weight
        lost = exact - dequantize_4bit(rounded.data, rounded.quant_state).float().cpu()
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        # A rank above a weight's own has nothing more to hold.
        rank = min(down.shape[0], *lost.shape)
        left, values, right = torch.svd_lowrank(lost, q=min(rank + 8, *lost.shape), niter=4)
        root = values[:rank].sqrt()
        down[:rank] = (root[:, None] * right[:, :rank].T).to(down)
        up[:, :rank] = (left[:, :rank] * root / layer.scaling["default"]).to(up)
        up[:, rank:] = 0

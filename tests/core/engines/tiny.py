"""Tiny models with random weights: enough to compare two ways of computing the same thing, in milliseconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def tiny_model(config_class: str, folder: Path, tokenizer_folder: Path, **more: Any) -> Path:
    """`folder` as a model folder of that architecture, with the tokenizer of another."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**SIZES, **more})
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the usual 0.02: else all logits are nearly equal, and rounding picks the token.
            parameter.mul_(4.0) if parameter.ndim > 1 else parameter
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_folder / name, folder / name)
    return folder


def tiny_adapter(folder: Path, model_folder: Path, seed: int = 0, **more: Any) -> Path:
    """`folder` as a LoRA adapter with random weights, written by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **more}
    config = LoraConfig(task_type="CAUSAL_LM", **options)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).save_pretrained(folder)
    return folder

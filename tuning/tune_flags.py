"""What the flags of `tunefork tune` ask for: the method (chosen by the rows where none is named) and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError
from core.label_lists import label_parts
from core.labels import are_numbers, closed_labels, head_task
from core.progress import say
from core.rows import Row, sift_rows

if TYPE_CHECKING:
    from tuning.recipe import FullRecipe, HeadRecipe, LoraRecipe

LANGUAGE = {
    "epochs": "epochs",
    "lr": "learning_rate",
    "batch_rows": "batch_rows",
    "max_seconds": "max_seconds",
    "skip_long": "skip_long",
    "gradient_checkpointing": "checkpointing",
    "neftune": "neftune",
}
SETTINGS = {
    "lora": LANGUAGE | {"rank": "rank", "dora": "dora", "rslora": "rslora", "init": "init", "bits": "bits"},
    "full": LANGUAGE,
    "head": {
        "unfreeze": "unfreeze",
        "task": "task",
        "features": "features",
        "precision": "precision",
        "abstain_below": "abstain_below",
        "abstain_answer": "abstain_answer",
    },
}
"""Flags that not every method has, and what they are called in its recipe."""


def chosen_recipe(
    train: Path, method: str | None, given: Mapping[str, Any], seed: int
) -> tuple[str, LoraRecipe | FullRecipe | HeadRecipe]:
    """The method and its recipe with the flags that were given; what the rows decide is said.

    Args:
        method: that the user named; None: a head for labels, else a LoRA adapter.
        given: the command's flags by name, None or False where they were not given.

    Raises:
        ConfigError: flags that contradict each other or the method, a GPU where there is none.
        DataError: the training rows cannot be read.
        MissingExtra: 4 bits without bitsandbytes.
    """
    for flag in ("gold_share", "cite"):
        if given[flag] and not given["context"]:
            raise ConfigError(f"--{flag.replace('_', '-')} needs --context")
    if given["context"]:
        if method == "head":
            raise ConfigError("--context is for --method lora; a head reads the question alone")
        method = method or "lora"
    task = given["task"]
    if task in ("multi", "number"):
        method = method or "head"
    if method is None or (method == "head" and task is None):
        rows = sift_rows(train, "training")[0]
        likely = head_task(rows)
        if method is None:
            method = "lora" if likely is None and task is None else "head"
            if rows:
                say(f"method: {method}, because {_why(rows)} (--method lora|head|full overrules)")
        elif likely == "multi":
            say(f"task: multi, because {_why(rows)} (--task single overrules)")
        if method == "head":
            task = task or likely
    return method, _recipe(method, {**given, "task": task}, seed)


def _why(rows: Sequence[Row]) -> str:
    parts = label_parts([row.output for row in rows]) if head_task(rows) == "multi" else None
    if parts is not None:
        return f"the answers are lists made of {len(parts)} labels"
    labels = closed_labels(rows)
    if labels is not None:
        return f"the answers are a closed set of {len(labels)} labels"
    if are_numbers(rows):
        return "the answers are numbers; if they rate or measure the input, --task number trains a head for them"
    return "the answers are free text"


def _recipe(method: str, given: Mapping[str, Any], seed: int) -> LoraRecipe | FullRecipe | HeadRecipe:
    """The recipe of `method` with the flags that were given.

    Raises:
        ConfigError: a flag of another method, flags that exclude each other, a GPU where there is none.
        MissingExtra: 4 bits without bitsandbytes.
    """
    from tuning.device import pick_device
    from tuning.recipe import FullRecipe, HeadRecipe, LoraRecipe, check_head, check_variant, parse_recipe

    for flag in sorted({flag for names in SETTINGS.values() for flag in names} - SETTINGS[method].keys()):
        if given[flag] is not None:
            owners = " or ".join(other for other, names in SETTINGS.items() if flag in names)
            raise ConfigError(f"--{flag.replace('_', '-')} is for --method {owners}; the method here is {method}")
    values = {key: given[flag] for flag, key in SETTINGS[method].items()}
    values |= {"max_rows": given["max_rows"], "device": given["device"], "seed": seed}
    kinds: dict[str, type[LoraRecipe | FullRecipe | HeadRecipe]]
    kinds = {"lora": LoraRecipe, "full": FullRecipe, "head": HeadRecipe}
    recipe = parse_recipe(kinds[method], values, flag_names(SETTINGS[method] | {"max_rows": "max_rows"}))
    if given["device"] == "cuda":
        pick_device("cuda")
    if isinstance(recipe, LoraRecipe):
        check_variant(recipe)
    if isinstance(recipe, HeadRecipe):
        check_head(recipe)
    return recipe


def flag_names(settings: dict[str, str]) -> dict[str, str]:
    """By the name of a recipe's setting, the flag that gives it, as a user writes it."""
    return {setting: f"--{flag.replace('_', '-')}" for flag, setting in settings.items()}

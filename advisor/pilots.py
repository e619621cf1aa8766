"""Pilot tunes: short trainings whose adapters are measured, kept by content so that no run trains them twice."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import read_json, sha256_text
from core.labels import head_task
from core.memory import give_back
from core.rows import Row
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace

if TYPE_CHECKING:
    from tuning.recipe import HeadRecipe

PILOT_ROWS = 200
"""Most rows of a LoRA pilot (decision.md: 50-200)."""
PILOT_SECONDS = 90.0
"""Longest LoRA pilot: it shows whether tuning helps, not how far it goes."""
HEAD_ROWS = 5_000
"""Most rows of a head pilot: features cost milliseconds a row, so a head sees what there is."""


HEAD_ROWS_PER_S = 100.0
"""Rows a second that a head is trained on, on the slowest machine we know (2 cores, no bf16)."""
OPEN_SECONDS = 30.0
"""Most that opening a pilot's model takes beside its training."""


@dataclass(frozen=True)
class Pilot:
    method: str
    folder: Path
    rows: int
    identity: str
    """Hash of all that shaped it; part of its answers' cache key."""
    train_s: float


def lora_pilot(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    kind: str,
    *,
    most: int = PILOT_ROWS,
    seed: int | None = None,
) -> Pilot:
    """A LoRA adapter from at most `most` of `rows`; trained now, or found from an earlier run.

    Args:
        kind: what the rows are ("plain", "retrieved"), part of the pilot's identity.
        seed: draws the rows and starts the training; None: the use case's.
    """
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    from tuning.recipe import LoraRecipe
    from tuning.train import train_lora

    chosen = _sample(rows, most, settings.seed)
    identity = _identity("lora", kind, settings, chosen)
    target = folder.path / "pilots" / f"lora-{identity[:16]}"
    if not (target / "origin.json").exists():
        # What tuning breaks is seen on the eval set; the check on general questions is for what ships.
        recipe = LoraRecipe(seed=settings.seed, max_seconds=PILOT_SECONDS, harm_check=False)
        train_lora(target, settings, workspace, chosen, recipe, source=settings.train)
        give_back()
    return Pilot("lora", target, len(chosen), identity, _train_s(target))


def head_pilot(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    *,
    most: int = HEAD_ROWS,
    seed: int | None = None,
) -> Pilot:
    """A classification head from at most `most` of `rows`; trained now, or found from an earlier run.

    Args:
        seed: draws the rows; None: the use case's.
    """
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    from tuning.train import train_head

    chosen = _sample(rows, most, settings.seed)
    identity = _identity("head", _kind("head", rows), settings, chosen)
    target = folder.path / "pilots" / f"head-{identity[:16]}"
    if not (target / "origin.json").exists():
        train_head(target, settings, workspace, chosen, head_recipe(settings, rows), source=settings.train)
    return Pilot("head", target, len(chosen), identity, _train_s(target))


def head_recipe(settings: UseCase, rows: Sequence[Row]) -> HeadRecipe:
    """The recipe of a head for all of the use case's training `rows`: a few of them may not show what they list."""
    from tuning.recipe import HeadRecipe

    return HeadRecipe(task=head_task(rows) or "single", seed=settings.seed)


def _kind(method: str, rows: Sequence[Row]) -> str:
    """What plain rows are to a pilot, part of its identity."""
    return "several labels" if method == "head" and head_task(rows) == "multi" else "plain"


def kept(
    folder: UseCaseFolder,
    settings: UseCase,
    rows: Sequence[Row],
    method: str,
    most: int | None = None,
    seed: int | None = None,
) -> str | None:
    """Identity of the plain pilot of that method on these rows, where it has been trained already.

    Args:
        most, seed: as of `lora_pilot` and `head_pilot`; None: their defaults.
    """
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    most = most or (HEAD_ROWS if method == "head" else PILOT_ROWS)
    identity = _identity(method, _kind(method, rows), settings, _sample(rows, most, settings.seed))
    done = (folder.path / "pilots" / f"{method}-{identity[:16]}" / "origin.json").exists()
    return identity if done else None


def most_seconds(method: str, rows: int) -> float:
    """Most seconds that training a pilot on at most `rows` rows takes, and opening it."""
    if method == "head":
        return min(rows, HEAD_ROWS) / HEAD_ROWS_PER_S + OPEN_SECONDS
    return PILOT_SECONDS + OPEN_SECONDS


def _sample(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    order = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(order)
    return order[:most]


def _identity(method: str, kind: str, settings: UseCase, rows: Sequence[Row]) -> str:
    base = settings.embedding_model if method == "head" else settings.base_model
    content = [[[m.role, m.content] for m in row.messages] + [row.output] for row in rows]
    parts: list[Any] = [method, kind, base, settings.instruction, settings.seed, content]
    return sha256_text(json.dumps(parts, ensure_ascii=False))


def _train_s(target: Path) -> float:
    return float(read_json(target / "origin.json")["train_s"])

"""Training rows in, a checked artifact out: what `tune`, `build` and the advisor's pilots call."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import ConfigError, DataError
from core.files import read_json, sha256_text
from core.models import local_folder, remote, starter
from core.progress import say
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tuning.adapters import Origin, base_fingerprint, library_versions, now, save_origin, staged
from tuning.recipe import HeadRecipe, LoraRecipe

MIN_DEV_TOTAL = 20
"""With fewer rows none is held out: two dev rows decide nothing."""


@dataclass(frozen=True)
class TrainReport:
    method: Literal["lora", "head"]
    folder: Path
    base_model: str
    rows: int
    """Trained on; dev rows not counted."""
    dev_rows: int
    train_s: float
    scores: dict[str, Any]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder), "warnings": list(self.warnings)}


def train_lora(
    target: Path,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    recipe: LoraRecipe | None = None,
    *,
    source: Path | None = None,
) -> TrainReport:
    """Train a LoRA adapter for the use case's base model into the folder `target` (new, or empty).

    The state of the training is kept in the use case's folder until it is done, by content: the same rows and recipe
    go on where they stopped, whoever asks.

    Args:
        recipe: None: the defaults, with the use case's seed.
        source: the file the rows came from, for messages.

    Raises:
        DataError: the rows cannot be trained on; names file and line.
        ConfigError: the base model is remote, a GPU is asked for where there is none, or the loss diverged.
    """
    from tuning.examples import TrainingTokenizer, check_mask, make_examples, rows_sha256
    from tuning.lora import train_adapter

    started = time.monotonic()
    recipe = recipe or LoraRecipe(seed=settings.seed)
    rows = _usable(rows, recipe.max_rows, recipe.seed, source)
    if remote(settings.base_model) is not None:
        raise ConfigError(
            f"base model {settings.base_model!r} is remote, its weights are not here to tune; name a local one with"
            " --base-model, or train a head (--method head)"
        )
    base = local_folder(settings.base_model, workspace.models)
    known = starter(settings.base_model)
    tokenizer = TrainingTokenizer(base)
    examples = make_examples(rows, tokenizer, settings.instruction, _context(base), source, recipe.skip_long)
    warnings = [*_conflicts(rows)]
    if examples.too_long:
        warnings.append(f"{len(examples.too_long)} rows are too long and were left out: {examples.too_long[0]}, ...")
    say(check_mask(examples.kept, tokenizer))
    train, dev = _dev_split(examples.kept, recipe)

    data_sha256 = rows_sha256(rows)
    fingerprint = base_fingerprint(base)
    state = _state(workspace, settings, fingerprint, data_sha256, recipe.model_dump_json())
    trained = train_adapter(base, train, dev, recipe, state, tokenizer.end_of_turn)
    at = trained.progress
    # Of a resumed training `at.seconds` spans earlier attempts; loading counts once.
    train_s = max(at.seconds, time.monotonic() - started)
    scores = {
        "dev_loss": at.best_loss if dev else None,
        "dev_exact": at.best_score if dev else None,
        "steps": at.step,
        "best_step": at.best_step,
        "planned_steps": at.steps,
        "stopped": at.stopped or None,
        "tokens": at.tokens,
        "tokens_per_s": at.tokens / (at.seconds - at.evaluation_seconds),
        "trainable_parameters": trained.parameters,
    }
    name = known.name if known is not None else settings.base_model
    with staged(target) as folder:
        trained.model.peft_config["default"].base_model_name_or_path = known.hub_id if known is not None else name
        trained.model.save_pretrained(folder, save_embedding_layers=False)
        shutil.copyfile(state / "metrics.jsonl", folder / "metrics.jsonl")
        save_origin(
            folder,
            Origin(
                method="lora",
                base_model=name,
                base_fingerprint=fingerprint,
                template_sha256=sha256_text(tokenizer.template),
                instruction=settings.instruction,
                data={
                    "path": str(source) if source else None,
                    "sha256": data_sha256,
                    "rows": len(train),
                    "dev_rows": len(dev),
                },
                recipe=recipe.model_dump(mode="json") | {"dtype": trained.dtype, "shared_prefix": trained.prefix},
                scores=scores,
                train_s=train_s,
                versions=library_versions(),
                created=now(),
            ),
        )
    shutil.rmtree(state, ignore_errors=True)
    return TrainReport("lora", target, name, len(train), len(dev), train_s, scores, tuple(warnings))


def train_head(
    target: Path,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    recipe: HeadRecipe | None = None,
    *,
    source: Path | None = None,
) -> TrainReport:
    """Train a classification head on the use case's sentence encoder into the folder `target` (new, or empty).

    Raises:
        DataError: fewer than two rows or labels, or a row without an answer.
        ConfigError: a GPU is asked for where there is none.
    """
    from core.stats import wilson
    from tuning.device import pick_device
    from tuning.encoder import Encoder, cached_features
    from tuning.examples import rows_sha256
    from tuning.head import fit_head, save_head

    started = time.monotonic()
    recipe = recipe or HeadRecipe(seed=settings.seed)
    rows = _usable(rows, recipe.max_rows, recipe.seed, source)
    for row in rows:
        if not row.answers:
            raise DataError(f"row {row.id!r} has no label to learn", source, row.line)
    texts, answers = [row.input for row in rows], [row.output for row in rows]
    base = local_folder(settings.embedding_model, workspace.models)
    known = starter(settings.embedding_model)
    encoder = Encoder(base, pick_device(recipe.device))
    features = cached_features(encoder, texts, _home(workspace, settings) / "features")
    try:
        fit = fit_head(features, answers, recipe)
    except DataError as exc:
        raise DataError(str(exc), source) from exc
    accuracy = wilson(fit.correct, fit.judged) if fit.judged else None
    warnings = [*_conflicts(rows), *_rare_labels(answers), *_history(rows)]
    scores = {
        "cross_validated_accuracy": None if accuracy is None else asdict(accuracy),
        "log_loss": fit.log_loss if fit.judged else None,
        "calibration_error": fit.calibration_error if fit.judged else None,
        "temperature": fit.head.temperature,
        "strength": fit.strength,
        "labels": len(fit.head.labels),
    }
    name = known.name if known is not None else settings.embedding_model
    with staged(target) as folder:
        save_head(folder, fit.head)
        train_s = time.monotonic() - started
        save_origin(
            folder,
            Origin(
                method="head",
                base_model=name,
                base_fingerprint=base_fingerprint(base),
                data={
                    "path": str(source) if source else None,
                    "sha256": rows_sha256(rows),
                    "rows": len(rows),
                    "dev_rows": 0,
                },
                recipe=recipe.model_dump(mode="json"),
                scores=scores,
                train_s=train_s,
                versions=library_versions(),
                created=now(),
            ),
        )
    return TrainReport("head", target, name, len(rows), 0, train_s, scores, tuple(warnings))


def _usable(rows: Sequence[Row], most: int | None, seed: int, source: Path | None) -> list[Row]:
    """The rows to train on, drawn by `seed` where there are more than `most`, in file order."""
    if len(rows) < 2:
        count = "one training row" if rows else "no training rows"
        raise DataError(f"{count}; tuning needs two at the very least, and 50 to say anything", source)
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]


def _dev_split(examples: Sequence[Any], recipe: LoraRecipe) -> tuple[list[Any], list[Any]]:
    count = min(round(len(examples) * recipe.dev_share), recipe.max_dev_rows)
    if len(examples) < MIN_DEV_TOTAL or count == 0:
        return list(examples), []
    dev = set(random.Random(recipe.seed).sample(range(len(examples)), count))
    return [e for i, e in enumerate(examples) if i not in dev], [examples[i] for i in sorted(dev)]


def _conflicts(rows: Sequence[Row]) -> list[str]:
    given: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in rows:
        given[row.messages].add(row.output)
    torn = [messages for messages, answers in given.items() if len(answers) > 1]
    if not torn:
        return []
    return [f"{len(torn)} inputs have two different answers, for example {torn[0][-1].content[:60]!r}"]


def _rare_labels(answers: Sequence[str]) -> list[str]:
    single = sorted(label for label, n in Counter(answers).items() if n == 1)
    return [f"{len(single)} labels have one row only, for example {single[0]!r}"] if single else []


def _history(rows: Sequence[Row]) -> list[str]:
    count = sum(sum(m.role == "user" for m in row.messages) > 1 for row in rows)
    return [f"{count} rows are conversations; a head reads their last user turn only"] if count else []


def _context(base: Path) -> int | None:
    """Positions the model was made for; None when its config does not say."""
    limit = read_json(base / "config.json").get("max_position_embeddings")
    return int(limit) if limit is not None else None


def _home(workspace: Workspace, settings: UseCase) -> Path:
    return workspace.path / "use_cases" / settings.name


def _state(workspace: Workspace, settings: UseCase, *parts: str) -> Path:
    """Folder of the unfinished training that these parts identify."""
    identity = sha256_text("\n".join(["lora", settings.instruction, *parts]))[:16]
    return _home(workspace, settings) / "training" / identity

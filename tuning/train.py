"""Training rows in, a checked artifact out: what `tune`, `build` and the advisor's pilots call."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, DataError
from core.files import sha256_text
from core.models import local_folder, remote, starter
from core.openmp import brief_team
from core.progress import say
from core.remedy import Method
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tuning.adapters import Origin, base_fingerprint, library_versions, now, save_origin, staged
from tuning.checks import conflicts, conversations, dev_split, rare_labels, usable_rows
from tuning.recipe import FullRecipe, HeadRecipe, LoraRecipe, settle

if TYPE_CHECKING:
    from tuning.encoder import Features
    from tuning.head import Head
    from tuning.processes import Team
    from tuning.tracking import Track
    from tuning.unfreeze import Unfrozen


@dataclass(frozen=True)
class TrainReport:
    method: Method
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


@brief_team()
def train_lora(
    target: Path,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    recipe: LoraRecipe | FullRecipe | None = None,
    *,
    source: Path | None = None,
    notes: Mapping[str, Any] | None = None,
    team: Team | None = None,
    track: Track | None = None,
) -> TrainReport:
    """Train a LoRA adapter for the use case's base model, or all of its weights, into the folder `target` (new, or empty).

    The state of the training is kept in the use case's folder until it is done, by content: the same rows and recipe
    go on where they stopped, whoever asks.

    Args:
        recipe: a FullRecipe trains all weights; None: an adapter by the defaults, with the use case's seed.
        source: the file the rows came from, for messages.
        notes: what else the adapter's recipe should tell, as how its rows were made.
        team: the processes that train together; only the first one's `target` is written.
        track: is given the metrics as they come.

    Raises:
        DataError: the rows cannot be trained on; names file and line.
        ConfigError: the base model is remote, a GPU is asked for where there is none, or the loss diverged.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    from tuning.checkpoint import state_folder
    from tuning.examples import TrainingTokenizer, check_mask, make_examples, rows_sha256
    from tuning.general import general_set, harm, harm_warning
    from tuning.lint import UNSERVABLE, lint_adapter
    from tuning.lora import train_model
    from tuning.processes import Team

    started = time.monotonic()
    team = team or Team()
    recipe = recipe or LoraRecipe(seed=settings.seed)
    rows = usable_rows(rows, recipe.max_rows, recipe.seed, source)
    if remote(settings.base_model) is not None:
        raise ConfigError(
            f"base model {settings.base_model!r} is remote, its weights are not here to tune; name a local one with"
            " --base-model, or train a head (--method head)"
        )
    base = local_folder(settings.base_model, workspace.models)
    known = starter(settings.base_model)
    tokenizer = TrainingTokenizer(base)
    context, hidden = _shape(base)
    examples = make_examples(rows, tokenizer, settings.instruction, context, source, recipe.skip_long)
    warnings = conflicts(rows)
    if examples.too_long:
        warnings.append(f"{len(examples.too_long)} rows are too long and were left out: {', '.join(examples.too_long)}")
    say(check_mask(examples.kept, tokenizer))
    train, dev = dev_split(examples.kept, recipe.dev_share, recipe.max_dev_rows, recipe.seed)
    plan = settle(recipe, len(train), hidden, team.size)
    method: Method = "lora" if isinstance(recipe, LoraRecipe) else "full"

    template_sha256, data_sha256 = sha256_text(tokenizer.template), rows_sha256(rows)
    origin = _Origins(base, settings.instruction, template_sha256, data_sha256, source)
    decides = (base_fingerprint(base), settings.instruction, template_sha256, data_sha256)
    state = state_folder(workspace, settings, plan, *decides)
    general = general_set(tokenizer) if plan.harm_check else None
    trained = train_model(base, train, dev, plan, state, general, team, track)
    at = trained.progress
    # Of a resumed training `at.seconds` spans the earlier attempts.
    train_s = max(at.seconds, time.monotonic() - started)
    scores: dict[str, Any] = {
        "dev_loss": at.best_loss if dev else None,
        "dev_exact": at.best_score if dev else None,
        "steps": at.step,
        "best_step": at.best_step,
        "planned_steps": at.steps,
        "stopped": at.stopped or None,
        "tokens": at.tokens,
        "tokens_per_s": at.tokens / (at.seconds - at.evaluation_seconds),
        "trainable_parameters": trained.parameters,
        "processes": team.size if team.size > 1 else None,
        "sharded_layers": trained.learner.sharded or None,
    }
    if at.general_before is not None and trained.general_after is not None:
        scores["general"] = harm(at.general_before, trained.general_after)
        harmed = harm_warning(scores["general"])
        warnings += [] if harmed is None else [harmed]
    name = known.name if known is not None else settings.base_model
    report = TrainReport(method, target, name, len(train), len(dev), train_s, scores, tuple(warnings))
    if not team.leads:
        return report
    with staged(target) as folder:
        if method == "lora":
            config = trained.learner.model.peft_config["default"]
            config.base_model_name_or_path = known.hub_id if known is not None else name
        trained.save(folder)
        unservable = lint_adapter(folder) if method == "lora" else []
        warnings += [f"{UNSERVABLE}: {text}" for text in unservable]
        shutil.copyfile(state / "metrics.jsonl", folder / "metrics.jsonl")
        how = (
            plan.model_dump(mode="json") | {"dtype": trained.dtype, "shared_prefix": trained.prefix} | dict(notes or {})
        )
        save_origin(folder, origin.make(method, name, len(train), len(dev), how, scores, train_s))
    shutil.rmtree(state, ignore_errors=True)
    return replace(report, warnings=tuple(warnings))


@brief_team()
def train_head(
    target: Path,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    recipe: HeadRecipe | None = None,
    *,
    source: Path | None = None,
) -> TrainReport:
    """Train a head on the use case's sentence encoder (or base model) into the folder `target` (new, or empty).

    The features are kept in the use case's folder, so the next head on the same rows costs only its fit; so is the state
    of an unfreezing until it is done, as `train_lora` does it.

    Raises:
        DataError: fewer than two rows or labels, or a row without an answer.
        ConfigError: a GPU is asked for where there is none.
        KeyboardInterrupt: Ctrl-C while unfreezing; the same call goes on from there.
    """
    from tuning.checkpoint import state_folder
    from tuning.device import pick_device
    from tuning.encoder import BaseStates, Encoder, Featurizer, cached_features
    from tuning.examples import rows_sha256
    from tuning.head import save_head
    from tuning.head_engine import ENCODER

    started = time.monotonic()
    recipe = recipe or HeadRecipe(seed=settings.seed)
    if recipe.unfreeze and (recipe.task != "single" or recipe.features != "encoder"):
        raise ConfigError("--unfreeze is for a head with one label a row on a sentence encoder")
    if recipe.unfreeze and recipe.precision is not None:
        raise ConfigError("--precision is for a frozen encoder; with --unfreeze give --abstain-below")
    rows = usable_rows(rows, recipe.max_rows, recipe.seed, source)
    data_sha256 = rows_sha256(rows)
    texts, answers = [row.input for row in rows], [row.output for row in rows]
    device = pick_device(recipe.device)
    model = settings.base_model if recipe.features == "base" else settings.embedding_model
    base = local_folder(model, workspace.models)
    known = starter(model)
    encoder: Featurizer = BaseStates(base, device) if recipe.features == "base" else Encoder(base, device)
    features = cached_features(encoder, texts, _home(workspace, settings) / "features")
    try:
        fitted = _fit(features, texts, answers, recipe)
    except DataError as exc:
        raise DataError(str(exc), source) from exc
    head, scores = fitted.head, fitted.scores
    warnings = [*fitted.warnings, *conflicts(rows), *conversations(rows)]
    warnings += rare_labels(answers) if recipe.task == "single" else []
    unfrozen: Unfrozen | None = None
    state: Path | None = None
    if recipe.unfreeze:
        from core.stats import wilson
        from tuning.unfreeze import unfreeze

        state = state_folder(workspace, settings, recipe, base_fingerprint(base), data_sha256)
        unfrozen = unfreeze(base, texts, answers, features, recipe, device, state)
        scores["stages"] = [asdict(stage) for stage in unfrozen.stages]
        scores["dev_accuracy"] = asdict(wilson(unfrozen.best.correct, unfrozen.dev_rows))
        if unfrozen.best.layers == 0:
            warnings.append("training the encoder's layers did not help on the dev rows; the frozen encoder stays")
            unfrozen = None
    name = known.name if known is not None else model
    dev_rows = 0 if unfrozen is None else unfrozen.dev_rows
    with staged(target) as folder:
        save_head(folder, head if unfrozen is None else unfrozen.head)
        if unfrozen is not None:
            unfrozen.encoder.model.save(str(folder / ENCODER), create_model_card=False)
        train_s = time.monotonic() - started
        how = recipe.model_dump(mode="json") | {"dtype": str(encoder.dtype).removeprefix("torch.")}
        how["abstain_below"] = scores.get("abstain_below")
        origin = _Origins(base, "", None, data_sha256, source)
        save_origin(folder, origin.make("head", name, len(rows) - dev_rows, dev_rows, how, scores, train_s))
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    return TrainReport("head", target, name, len(rows) - dev_rows, dev_rows, train_s, scores, tuple(warnings))


@dataclass(frozen=True)
class _Fitted:
    head: Head
    scores: dict[str, Any]
    warnings: list[str]


def _fit(features: Features, texts: Sequence[str], answers: Sequence[str], recipe: HeadRecipe) -> _Fitted:
    """The head that the recipe's task asks for, on features of any scale."""
    from core.stats import wilson
    from tuning.head import at_threshold, fit_head, threshold_for
    from tuning.other_heads import fit_multi_label, fit_number

    # A language model's states have directions a hundred times as wide as others; a penalty needs them alike.
    scale = features.std(axis=0) + 1e-6 if recipe.features == "base" else None
    used = features if scale is None else features / scale
    if recipe.task == "number":
        number = fit_number(used, answers, recipe)
        scores = {key: value for key, value in asdict(number).items() if key != "head"} | {"task": "number"}
        return _Fitted(_unscaled(number.head, scale), scores, [])
    multi = recipe.task == "multi"
    fit = fit_multi_label(used, answers, recipe) if multi else fit_head(used, answers, recipe, texts)
    warnings = []
    scores = {
        "task": recipe.task,
        "cross_validated_accuracy": asdict(wilson(fit.correct, fit.judged)) if fit.judged else None,
        "log_loss": fit.log_loss if fit.judged else None,
        "calibration_error": fit.calibration_error if fit.judged else None,
        "temperature": fit.head.temperature,
        "strength": fit.strength,
        "words": 0.0 if fit.head.words is None else fit.head.words.share,
        "labels": len(fit.head.labels),
    }
    chosen = None
    if recipe.precision is not None:
        chosen = threshold_for(fit.confidence, fit.right, recipe.precision)
        if chosen is None:
            warnings.append(f"at no threshold are {recipe.precision:.0%} of the answers right; the head never abstains")
    elif recipe.abstain_below is not None:
        chosen = at_threshold(fit.confidence, fit.right, recipe.abstain_below)
        scores["abstain_below"] = recipe.abstain_below
    if chosen is not None:
        scores |= {"abstain_below": chosen.below, "abstains": chosen.abstains, "precision": chosen.precision}
    return _Fitted(_unscaled(fit.head, scale), scores, warnings)


def _unscaled(head: Head, scale: Any) -> Head:
    """A head fitted on scaled features, for the features themselves."""
    return head if scale is None else replace(head, weight=(head.weight / scale).astype(head.weight.dtype))


@dataclass(frozen=True)
class _Origins:
    """What is known of an adapter's origin before it is trained."""

    base: Path
    instruction: str
    template_sha256: str | None
    data_sha256: str
    source: Path | None

    def make(
        self,
        method: Method,
        base_model: str,
        rows: int,
        dev_rows: int,
        recipe: dict[str, Any],
        scores: dict[str, Any],
        train_s: float,
    ) -> Origin:
        name = None if self.source is None else self.source.name
        return Origin(
            method=method,
            base_model=base_model,
            base_fingerprint=base_fingerprint(self.base),
            template_sha256=self.template_sha256,
            instruction=self.instruction,
            data={"file": name, "sha256": self.data_sha256, "rows": rows, "dev_rows": dev_rows},
            recipe=recipe,
            scores=scores,
            train_s=train_s,
            versions=library_versions(),
            created=now(),
        )


def _shape(base: Path) -> tuple[int | None, int]:
    """Positions the model was made for (None when its config does not say), and its hidden size."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base).get_text_config()
    return getattr(config, "max_position_embeddings", None), int(config.hidden_size)


def _home(workspace: Workspace, settings: UseCase) -> Path:
    return workspace.path / "use_cases" / settings.name

"""The job that trains an adapter and makes it a served name. Runs in a child process, see serve.job_child.

The name appears with the last file that is written: until then there is no use case of it, and a job that was killed
goes on from the training's own checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.files import write_text
from core.models import local_folder
from core.remedy import Remedy, save_remedy
from core.rows import Row, read_rows
from core.settings import DEFAULT_EMBEDDING_MODEL, UseCase
from core.workspace import UseCaseFolder, Workspace, open_workspace
from tuning.adapters import load_origin
from tuning.recipe import LoraRecipe, parse_recipe, settle
from tuning.train import train_lora


class BadFile(DataError):
    """A training or validation file cannot be used."""

    def __init__(self, error: DataError, param: str) -> None:
        super().__init__(str(error))
        self.param = param
        self.code = f"invalid_{param}"


def fine_tune(name: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """{"fine_tuned_model", "trained_tokens", "step", "metrics"} once `name` is served."""
    workspace = open_workspace()
    settings = UseCase(name=name, base_model=spec["base_model"], seed=spec["seed"])
    held_out = _rows(folder / spec["validation_file"], "validation_file") if spec["validation_file"] else []
    train = _prefer if spec["method"] == "dpo" else _supervise
    home = UseCaseFolder(workspace.path / "use_cases" / name)
    if home.adapters.newest() is None:
        for leftover in home.adapters.folder.glob(".v*.tmp"):  # of an attempt that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with home.adapters.build() as staging:
            try:
                train(staging, settings, workspace, spec, folder / spec["training_file"])
            except DataError as exc:
                raise BadFile(exc, "training_file") from exc
    version = home.adapters.newest()
    assert version is not None
    origin = load_origin(home.adapters.folder / version)
    # Preference tuning keeps the last weights; supervised tuning the best on the held-out rows.
    step = origin.scores.get("best_step", origin.scores["steps"])
    metrics: dict[str, Any] = {"step": step, "valid_loss": origin.scores.get("dev_loss")}
    if held_out:
        metrics["full_valid_loss"] = _loss(home.adapters.folder / version, settings, workspace, held_out)
    home.adapters.activate(version)
    remedy = Remedy(
        use_case=name,
        route="tune",
        method="lora",
        base_model=settings.base_model,
        embedding_model=DEFAULT_EMBEDDING_MODEL,
        adapter_version=version,
    )
    save_remedy(home.remedy_path, remedy)
    workspace.declare(name, {"base_model": settings.base_model, "seed": settings.seed})
    return {
        "fine_tuned_model": name,
        "trained_tokens": origin.scores.get("tokens"),
        "step": step,
        "metrics": metrics,
    }


def _rows(path: Path, param: str) -> list[Row]:
    try:
        return read_rows(path, "training")
    except DataError as exc:
        raise BadFile(exc, param) from exc


def _supervise(target: Path, settings: UseCase, workspace: Workspace, spec: dict[str, Any], file: Path) -> None:
    from transformers import AutoConfig

    rows = read_rows(file, "training")
    values: dict[str, Any] = {**spec["recipe"], "seed": settings.seed, "skip_long": True}
    if spec["learning_rate_multiplier"] is not None:
        config = AutoConfig.from_pretrained(local_folder(settings.base_model, workspace.models)).get_text_config()
        # The default rate follows from the model alone.
        usual = settle(LoraRecipe(), rows=100, hidden=int(config.hidden_size)).learning_rate
        values["learning_rate"] = usual * spec["learning_rate_multiplier"]
    recipe = parse_recipe(LoraRecipe, values)
    assert isinstance(recipe, LoraRecipe)
    train_lora(target, settings, workspace, rows, recipe)


def _prefer(target: Path, settings: UseCase, workspace: Workspace, spec: dict[str, Any], file: Path) -> None:
    from tuning.preferences import DpoRecipe, read_preferences, train_preferences

    values: dict[str, Any] = {**spec["recipe"], "seed": settings.seed, "beta": spec["beta"]}
    if spec["learning_rate_multiplier"] is not None:
        values["learning_rate"] = DpoRecipe().learning_rate * spec["learning_rate_multiplier"]
    pairs = read_preferences(_as_pairs(file))
    train_preferences(target, settings, workspace, pairs, parse_recipe(DpoRecipe, values))


def _as_pairs(file: Path) -> Path:
    """`file` with OpenAI's preference rows as rows that `tunefork tune` reads, each in its own place; others stay."""
    if file.suffix != ".jsonl":
        return file
    lines = []
    # split("\n"), not splitlines(): U+2028 and the like may stand inside a JSON string.
    for line in file.read_text(encoding="utf-8-sig").split("\n"):
        try:
            row = json.loads(line)
            turns = row["input"]["messages"]
            row = {"messages": turns, "chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
            lines.append(json.dumps(row))
        except (ValueError, KeyError, TypeError):
            lines.append(line)  # the reader says what is wrong with it, or takes it as it is
    pairs = file.with_name(f"pairs-{file.name}")
    write_text(pairs, "\n".join(lines))
    return pairs


def _loss(adapter: Path, settings: UseCase, workspace: Workspace, rows: Sequence[Row]) -> float:
    """Mean loss a token of the rows' answers, by the model with its adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tuning.examples import TrainingTokenizer, make_examples
    from tuning.forward import SupervisedModel
    from tuning.lora import evaluate

    base = local_folder(settings.base_model, workspace.models)
    try:
        examples = make_examples(rows, TrainingTokenizer(base), "", None, skip_long=True).kept
    except DataError as exc:
        raise BadFile(exc, "validation_file") from exc
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    # One row a pass: right for every architecture.
    loss, _ = evaluate(SupervisedModel(model.get_base_model()), examples, 1)
    return loss

"""Gradual unfreezing: only the top layers move, only a gain is kept, and what is saved is what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.conftest import run_and_kill
from tuning.encoder import Encoder
from tuning.head_engine import load_head
from tuning.recipe import HeadRecipe
from tuning.train import train_head
from tuning.unfreeze import Unfrozen, unfreeze

CPU = torch.device("cpu")
RECIPE = HeadRecipe(
    unfreeze=True,
    unfreeze_stages=(2,),
    unfreeze_epochs=4,
    unfreeze_batch_rows=8,
    dev_share=0.25,
    strengths=(1e-3,),
)
"""The frozen head is held so tightly that it has a dev row wrong, which training mends."""


@pytest.fixture
def unfrozen(encoder_folder: Path, card_rows: list[Row]) -> Unfrozen:
    texts = [r.input for r in card_rows]
    features = Encoder(encoder_folder, CPU).encode(texts)
    return unfreeze(encoder_folder, texts, [r.output for r in card_rows], features, RECIPE, CPU)


def test_only_the_top_layers_learn(unfrozen: Unfrozen, encoder_folder: Path) -> None:
    assert unfrozen.best.layers == 2
    before = Encoder(encoder_folder, CPU, torch.float32).model.state_dict()
    after = unfrozen.encoder.model.state_dict()
    moved = {name.split("layer.")[1].split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"4", "5"}


def test_the_gain_is_on_rows_that_were_held_out(unfrozen: Unfrozen) -> None:
    frozen, trained = unfrozen.stages
    assert trained.loss < frozen.loss
    assert trained.correct > frozen.correct
    assert unfrozen.dev_rows == 6


def test_the_saved_head_answers_as_the_trained_one(
    workspace: Workspace, card_rows: list[Row], encoder_folder: Path, tmp_path: Path, unfrozen: Unfrozen
) -> None:
    report = train_head(tmp_path / "head", UseCase(name="tiny"), workspace, card_rows, RECIPE)
    assert (report.rows, report.dev_rows) == (18, 6)
    texts = ["my card was stolen", "what is your rate for euros", "top up"]
    served = load_head(report.folder, workspace.models).probabilities(texts)
    assert np.allclose(served, unfrozen.head.probabilities(unfrozen.encoder.encode(texts), texts), atol=0.05)
    assert not list(report.folder.rglob("*.bin"))


def test_unfreezing_that_does_not_help_is_undone_and_said(
    workspace: Workspace, card_rows: list[Row], encoder_folder: Path, tmp_path: Path
) -> None:
    ruinous = RECIPE.model_copy(update={"unfreeze_learning_rate": 20.0})
    report = train_head(tmp_path / "head", UseCase(name="tiny"), workspace, card_rows, ruinous)
    assert any("did not help" in warning for warning in report.warnings)
    assert not (report.folder / "encoder").exists()
    assert report.dev_rows == 0


_KILLED = """
import sys
from pathlib import Path
from core.rows import read_rows
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.conftest import run_and_kill
from tuning.recipe import HeadRecipe
from tuning.train import train_head
home, rows, recipe, target = sys.argv[1:]
rows = read_rows(Path(rows), "training")
train_head(Path(target), UseCase(name="tiny"), Workspace(Path(home)), rows, HeadRecipe.model_validate_json(recipe))
"""


@pytest.mark.slow
def test_an_unfreezing_killed_outright_goes_on_to_the_same_weights(
    workspace: Workspace,
    card_rows: list[Row],
    encoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = RECIPE.model_copy(update={"unfreeze_epochs": 6, "checkpoint_seconds": 1e-6})
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    training = workspace.path / "use_cases" / "tiny" / "training"
    arguments = (workspace.path, rows, recipe.model_dump_json(), tmp_path / "killed")
    run_and_kill(lambda: bool(list(training.glob("*/checkpoint.safetensors"))), _KILLED, *arguments)
    assert list(training.glob("*/checkpoint.safetensors")), "it was killed before its first checkpoint"

    settings = UseCase(name="tiny")
    # No checkpoint a step any more: how often is no part of what the training becomes.
    recipe = recipe.model_copy(update={"checkpoint_seconds": 60.0})
    resumed = train_head(tmp_path / "killed", settings, workspace, card_rows, recipe)
    assert "going on with the top 2 layers after step" in capsys.readouterr().err
    assert not list(training.iterdir())
    unbroken = train_head(tmp_path / "unbroken", settings, workspace, card_rows, recipe)
    assert resumed.scores["stages"][1] == pytest.approx(unbroken.scores["stages"][1], rel=1e-4)
    found, wanted = (load_file(r.folder / "encoder" / "model.safetensors") for r in (resumed, unbroken))
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)

"""Full fine-tuning: it learns, resumes, is served as a model of its own, and the registry, rollback and export know it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from core.cli import main
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.losses import dev_loss
from tuning import lora
from tuning.adapters import load_origin
from tuning.recipe import FullRecipe, LoraRecipe
from tuning.train import train_lora

RECIPE = FullRecipe(epochs=4, learning_rate=0.003, batch_rows=4, patience=99, harm_check=False)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_it_learns_and_plain_transformers_gives_the_loss_it_reports(
    workspace: Workspace, tiny: UseCase, tiny_base: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    report = train_lora(tmp_path / "full", tiny, workspace, card_rows, RECIPE)
    assert report.method == "full"
    lines = (report.folder / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert losses[-1] < losses[0]
    before, after = _weights(tiny_base), _weights(report.folder)
    assert before.keys() == after.keys()  # the tied output layer stays tied
    assert all(not torch.equal(before[name], after[name].to(before[name].dtype)) for name in before if "proj" in name)
    origin = load_origin(report.folder)
    assert (origin.method, origin.base_model) == ("full", tiny.base_model)
    assert report.scores["trainable_parameters"] == sum(tensor.numel() for tensor in after.values())
    dtype = getattr(torch, origin.recipe["dtype"])
    plain = AutoModelForCausalLM.from_pretrained(report.folder, dtype=dtype).eval()
    assert dev_loss(plain, report.folder, card_rows) == pytest.approx(report.scores["dev_loss"], rel=0.03)


def test_stopped_by_ctrl_c_it_goes_on_to_the_same_weights(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_lora(tmp_path / "unbroken", tiny, workspace, card_rows, RECIPE)
    step, calls = lora._step, []

    def interrupted(*args: Any) -> tuple[float, float]:
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(lora, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_lora(tmp_path / "broken", tiny, workspace, card_rows, RECIPE)
    good = next((workspace.path / "use_cases" / "tiny" / "training").glob("*/last_good"))
    assert (good / "model.safetensors").is_file()
    train_lora(tmp_path / "broken", tiny, workspace, card_rows, RECIPE)
    unbroken, broken = _weights(tmp_path / "unbroken"), _weights(tmp_path / "broken")
    assert all(torch.equal(unbroken[name], broken[name]) for name in unbroken)


@pytest.mark.parametrize("recipe", [RECIPE, LoraRecipe(epochs=4, learning_rate=0.01, batch_rows=4, rank=4)])
def test_gradient_checkpointing_changes_no_gradient(
    workspace: Workspace,
    tiny: UseCase,
    card_rows: list[Row],
    tmp_path: Path,
    recipe: FullRecipe | LoraRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    recomputed: list[bool] = []
    forward = GradientCheckpointingLayer.__call__

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        recomputed.append(bool(self.gradient_checkpointing and self.training))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", counting)
    short = {"epochs": 1.0, "harm_check": False}
    plain = train_lora(tmp_path / "a", tiny, workspace, card_rows, recipe.model_copy(update=short))
    assert not any(recomputed)
    checkpointed = recipe.model_copy(update=short | {"checkpointing": True})
    saved = train_lora(tmp_path / "b", tiny, workspace, card_rows, checkpointed)
    assert any(recomputed)
    assert saved.scores["dev_loss"] == pytest.approx(plain.scores["dev_loss"], rel=1e-3)


@pytest.fixture
def tuned(workspace: Workspace, tiny_base: Path, card_rows: list[Row], tmp_path: Path) -> Workspace:
    """Use case `bank` with v0001, an adapter, and v0002, a full model, in force."""
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--epochs", "1", "--max-rows", "4"]
    assert main(["tune", "bank", *flags, "--method", "lora", "--rank", "2"]) == 0
    assert main(["tune", "bank", *flags, "--method", "full"]) == 0
    return workspace


def test_registry_show_rollback_and_export_know_a_full_model(
    tuned: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    assert main(["show", "bank"]) == 0
    assert "v0001 lora, v0002 full (in force: v0002)" in capsys.readouterr().out
    assert main(["export", "bank", "--merge", str(tmp_path / "out"), "--gguf", str(tmp_path / "m.gguf"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["folder"] == str(tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2
    assert (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"
    assert main(["export", "bank", "--gguf", str(tmp_path / "a.gguf"), "--adapter-only"]) == 2
    assert "is a full model; leave --adapter-only out" in capsys.readouterr().err
    assert main(["rollback", "bank", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "lora"


def test_what_belongs_to_an_adapter_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text('{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}\n')
    assert main(["tune", "bank", "--train", str(train), "--method", "full", "--rank", "8"]) == 2
    assert "--rank is for --method lora; the method here is full" in capsys.readouterr().err


def test_too_little_memory_names_what_would_fit(
    home: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning import cost

    train = tmp_path / "train.jsonl"
    train.write_text("".join(f'{{"input": "tell me of {n}", "output": "a tale of {n}"}}\n' for n in range(4)))
    monkeypatch.setattr(cost, "RUNTIME_BYTES", 0)
    # Between what all weights need and what a small adapter needs.
    monkeypatch.setattr(cost, "available_memory", lambda: 30_000_000)
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--method", "full"]
    assert main(["tune", "bank", *flags]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "GB are free; try --method lora --gradient-checkpointing (0.0 GB)" in said
    assert "or --method head" in said

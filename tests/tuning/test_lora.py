"""LoRA training: it learns, plain PEFT loads the result, and a broken-off training ends as an unbroken one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import ArtifactError, ConfigError, DataError, OtherBase
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.conftest import row, run, run_and_kill
from tests.tuning.losses import dev_loss
from tuning import lora
from tuning.adapters import check_base, load_origin
from tuning.recipe import LoraRecipe
from tuning.train import train_lora

RECIPE = LoraRecipe(epochs=4, learning_rate=0.01, batch_rows=4, rank=4, patience=99)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def _same(a: Path, b: Path) -> bool:
    first, second = _weights(a), _weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_starter_model_learns_three_labels(
    workspace: Workspace, starter_folder: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    settings = UseCase(name="tiny")
    recipe = LoraRecipe(epochs=3, batch_rows=4, dev_share=0.25, patience=99)
    report = train_lora(tmp_path / "adapter", settings, workspace, card_rows, recipe)
    assert report.scores["dev_exact"] >= 0.5
    assert report.dev_rows == 6
    assert report.rows == 18


def test_training_lowers_the_loss_and_says_how_far_it_is(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    rows = _metrics(report.folder)
    losses = [r["loss"] for r in rows if "loss" in r]
    assert losses[-1] < losses[0]
    assert all(r["tokens_per_s"] > 0 for r in rows if "loss" in r)
    assert [r["step"] for r in rows if "dev_loss" in r][-1] == report.scores["steps"]


def test_plain_peft_loads_the_folder_and_gives_the_same_loss(
    workspace: Workspace, tiny: UseCase, tiny_base: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tuning.examples import TrainingTokenizer, make_example

    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    recipe = load_origin(report.folder).recipe
    dtype = getattr(torch, recipe["dtype"])
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=dtype), report.folder)
    tokenizer = TrainingTokenizer(tiny_base)
    import random

    dev = sorted(random.Random(0).sample(range(24), 2))
    total = tokens = 0.0
    with torch.no_grad():
        for i in dev:
            example = make_example(card_rows[i], tokenizer, "")
            labels = torch.tensor([[-100] * example.prompt + list(example.ids[example.prompt :])])
            total += float(plain(input_ids=torch.tensor([example.ids]), labels=labels).loss) * example.supervised
            tokens += example.supervised
    assert total / tokens == pytest.approx(report.scores["dev_loss"], rel=0.02)


def test_the_folder_names_no_path_of_this_machine(
    workspace: Workspace, starter_folder: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    recipe = LoraRecipe(epochs=0.1, rank=2)
    report = train_lora(tmp_path / "a", UseCase(name="tiny"), workspace, card_rows[:4], recipe)
    text = "".join((report.folder / n).read_text() for n in ("adapter_config.json", "README.md", "origin.json"))
    assert str(workspace.path) not in text
    assert str(starter_folder) not in text
    config = json.loads((report.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_same_seed_gives_the_same_weights(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        train_lora(tmp_path / name, tiny, workspace, card_rows, RECIPE)
    train_lora(tmp_path / "c", tiny, workspace, card_rows, RECIPE.model_copy(update={"seed": 1}))
    assert _same(tmp_path / "a", tmp_path / "b")
    assert not _same(tmp_path / "a", tmp_path / "c")


def test_a_training_stopped_by_ctrl_c_goes_on_to_the_same_weights(
    workspace: Workspace,
    tiny: UseCase,
    card_rows: list[Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_lora(tmp_path / "unbroken", tiny, workspace, card_rows, RECIPE)
    steps = 0
    step = lora._step

    def interrupted(*args: Any) -> tuple[float, float]:
        nonlocal steps
        steps += 1
        if steps == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(lora, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_lora(tmp_path / "broken", tiny, workspace, card_rows, RECIPE)
    assert not (tmp_path / "broken").exists()
    train_lora(tmp_path / "broken", tiny, workspace, card_rows, RECIPE)
    assert "going on after step 7 of" in capsys.readouterr().err
    assert _same(tmp_path / "unbroken", tmp_path / "broken")
    assert _metrics(tmp_path / "broken")[-1]["step"] == _metrics(tmp_path / "unbroken")[-1]["step"]
    assert not list((workspace.path / "use_cases" / "tiny" / "training").iterdir())


_KILLED = """
import sys
from pathlib import Path
from core.rows import read_rows
from core.settings import UseCase
from core.workspace import Workspace
from tuning.recipe import LoraRecipe
from tuning.train import train_lora
home, base, rows, target, seconds = sys.argv[1:]
recipe = LoraRecipe(epochs=4, learning_rate=0.01, batch_rows=4, rank=4, patience=99, checkpoint_seconds=float(seconds))
train_lora(Path(target), UseCase(name="tiny", base_model=base), Workspace(Path(home)), read_rows(Path(rows), "training"), recipe)
"""


@pytest.mark.slow
def test_a_training_killed_outright_goes_on_to_the_same_weights(
    workspace: Workspace, tiny: UseCase, tiny_base: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows * 20))

    training = workspace.path / "use_cases" / "tiny" / "training"

    def ten_steps_in() -> bool:
        return any(len(path.read_text().splitlines()) >= 10 for path in training.glob("*/metrics.jsonl"))

    def start(name: str) -> tuple[object, ...]:
        return _KILLED, workspace.path, tiny_base, rows, tmp_path / name, "1e-6"

    run_and_kill(ten_steps_in, *start("killed"))
    assert list(training.glob("*/checkpoint.safetensors")), "it was killed before its first checkpoint"
    resumed = run(*start("killed"))
    _, said = resumed.communicate(timeout=240)
    assert b"going on after step" in said, said
    unbroken = run(*start("unbroken"))
    assert unbroken.communicate(timeout=240) and unbroken.returncode == 0
    assert _same(tmp_path / "killed", tmp_path / "unbroken")


def test_a_loss_that_is_no_number_ends_with_one_clear_line(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = lora._step
    calls: list[int] = []

    def diverging(*args: Any) -> tuple[float, float]:
        calls.append(1)
        loss, norm = step(*args)
        return (float("nan"), norm) if len(calls) == 12 else (loss, norm)

    monkeypatch.setattr(lora, "_step", diverging)
    with pytest.raises(
        ConfigError, match=r"no longer a number at step 12 of .*lower --lr; the weights of step \d+ are"
    ):
        train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    good = next((workspace.path / "use_cases" / "tiny" / "training").glob("*/last_good"))
    assert (good / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "a").exists()


def test_weights_whose_dev_loss_is_no_number_are_never_the_best(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "evaluate", lambda *_: (float("nan"), 0.0))
    with pytest.raises(ConfigError, match=r"no longer a number at step 3 of .*; no weights were judged good before"):
        train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    assert not list((workspace.path / "use_cases" / "tiny" / "training").glob("*/last_good"))


def test_training_stops_when_the_dev_rows_gain_nothing(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    stuck = RECIPE.model_copy(update={"learning_rate": 1e-12, "patience": 2, "epochs": 40.0})
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, stuck)
    assert "no gain on the dev rows" in report.scores["stopped"]
    assert report.scores["steps"] < report.scores["planned_steps"]


def test_a_time_limit_shortens_the_plan(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = RECIPE.model_copy(update={"epochs": 100_000.0, "max_seconds": 2.0})
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, short)
    assert report.scores["steps"] < 600_000
    assert report.scores["best_step"] > 0
    # Progress counts to what is planned now, not to what the recipe would take.
    assert f"/{report.scores['planned_steps']} steps" in capsys.readouterr().err.splitlines()[-1]


def test_an_adapter_of_another_base_is_refused_and_both_are_named(
    workspace: Workspace, tiny: UseCase, starter_folder: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE.model_copy(update={"epochs": 0.2}))
    assert check_base(report.folder, tiny.base_model, Path(tiny.base_model)).method == "lora"
    with pytest.raises(OtherBase, match=r"trained on '.*tiny-llama' and cannot be used with 'smollm2"):
        check_base(report.folder, "smollm2-135m-instruct", starter_folder)


def test_a_pickle_in_an_adapter_is_refused(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE.model_copy(update={"epochs": 0.2}))
    (report.folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"adapter_model\.bin, a pickle"):
        load_origin(report.folder)


def test_a_folder_that_is_no_adapter_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no origin\.json"):
        load_origin(tmp_path)


def test_a_target_that_holds_something_is_not_overwritten(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious").write_text("x")
    with pytest.raises(ArtifactError, match="not empty"):
        train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)


def test_rows_longer_than_the_context_are_refused(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    rows = [*card_rows, row("word " * 300, "top_up", 25)]
    with pytest.raises(DataError, match=r"f\.jsonl: 1 of 25 rows .* 256 tokens .*f\.jsonl:25"):
        train_lora(tmp_path / "a", tiny, workspace, rows, RECIPE, source=Path("f.jsonl"))
    skipping = RECIPE.model_copy(update={"skip_long": True, "epochs": 0.2})
    report = train_lora(tmp_path / "a", tiny, workspace, rows, skipping)
    assert any("1 rows are too long" in warning for warning in report.warnings)
    assert report.rows + report.dev_rows == 24


def test_a_remote_base_model_cannot_be_adapted(workspace: Workspace, card_rows: list[Row], tmp_path: Path) -> None:
    settings = UseCase(name="tiny", base_model="gpt@http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="is remote"):
        train_lora(tmp_path / "a", settings, workspace, card_rows)


def test_adapters_are_trained_from_the_state_of_the_same_rows_only(
    workspace: Workspace,
    tiny: UseCase,
    tiny_base: Path,
    card_rows: list[Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lora, "_evaluates", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    monkeypatch.undo()
    train_lora(tmp_path / "a", tiny, workspace, card_rows[:-1], RECIPE)
    assert "going on" not in capsys.readouterr().err


@pytest.mark.parametrize("variant", [{"init": "pissa"}, {"rslora": True}, {"dora": True}, {"neftune": 5.0}])
def test_variants_learn_and_plain_peft_gives_the_loss_they_report(
    workspace: Workspace,
    tiny: UseCase,
    tiny_base: Path,
    card_rows: list[Row],
    tmp_path: Path,
    variant: dict[str, Any],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE.model_copy(update=variant))
    losses = [r["loss"] for r in _metrics(report.folder) if "loss" in r]
    assert losses[-1] < losses[0]
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), report.folder
    ).eval()
    assert dev_loss(plain, tiny_base, card_rows) == pytest.approx(report.scores["dev_loss"], rel=0.03)


def test_the_harm_check_stands_in_the_origin(
    workspace: Workspace, tiny: UseCase, card_rows: list[Row], tmp_path: Path
) -> None:
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE)
    general = load_origin(report.folder).scores["general"]
    assert general["before"]["n"] == general["after"]["n"] == 40
    without = RECIPE.model_copy(update={"harm_check": False})
    assert "general" not in train_lora(tmp_path / "b", tiny, workspace, card_rows, without).scores


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    from tuning.checkpoint import load_checkpoint, save_checkpoint

    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"x": torch.ones(2)}, {"step": 1})

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(path, {"x": torch.zeros(2)}, {"step": 2})
    assert caught.value.filename == str(path)
    kept = load_checkpoint(path)
    assert kept is not None and kept[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]

"""`tunefork tune`: method by the data, one JSON document, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.jobs import state
from core.rows import Row
from core.workspace import Workspace
from tuning.recipe import HeadRecipe
from tuning.tune_flags import SETTINGS, chosen_recipe

pytestmark = pytest.mark.usefixtures("encoder_folder")


@pytest.fixture
def train_file(card_rows: list[Row], tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    return path


def test_a_closed_label_set_gets_a_head_and_that_is_said(
    workspace: Workspace, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "bank", "--train", str(train_file), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["method"] == "head"
    assert "method: head, because the answers are a closed set of 3 labels" in err
    folder = workspace.use_case("bank")
    active = folder.adapters.active()
    assert active is not None
    assert report["version"] == active.name == "v0001"
    assert [state(run) for run in folder.runs()] == ["done"]


def test_a_second_tune_needs_only_the_name_and_makes_a_version(
    workspace: Workspace, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "bank", "--train", str(train_file)]) == 0
    assert main(["tune", "bank"]) == 0
    assert "head v0002 on all-minilm-l6-v2, 24 rows" in capsys.readouterr().out
    assert workspace.use_case("bank").adapters.all() == ["v0001", "v0002"]


@pytest.mark.slow
def test_lora_can_be_asked_for(
    workspace: Workspace, train_file: Path, starter_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "lora", "--epochs", "0.5", "--rank", "2", "--max-rows", "4"]
    assert main(["tune", "bank", "--train", str(train_file), *flags]) == 0
    assert "lora v0001 on smollm2-135m-instruct, 4 rows" in capsys.readouterr().out
    active = workspace.use_case("bank").adapters.active()
    assert active is not None
    assert (active / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "head", "--epochs", "2"], "--epochs is for --method lora or full; the method here is head"),
        (["--method", "lora", "--unfreeze"], "--unfreeze is for --method head"),
        (["--method", "lora", "--rank", "0"], "--rank = 0: it has to be greater than"),
        (["--max-rows", "1"], "--max-rows = 1: it has to be greater than"),
        (["--method", "lora", "--lr", "inf"], "--lr = inf: it has to be a finite number"),
        (["--precision", "0.9", "--abstain-below", "0.5"], "give one of them"),
        (["--abstain-answer", "I pass"], "it needs --abstain-below or --precision"),
        (["--task", "number", "--precision", "0.9"], "--precision is for labels"),
        (["--method", "lora", "--shard"], "start them by torchrun or accelerate launch"),
        (["--method", "lora", "--init", "loftq"], "--init loftq makes up for what 4 bits lose"),
        (["--method", "lora", "--base-model", "smollm2-135m-instrct"], "did you mean smollm2-135m-instruct"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(
    home: Path, train_file: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["tune", "bank", "--train", str(train_file), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]


def test_no_training_file_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "bank"]) == 2
    assert "no training rows; run: tunefork tune bank --train F" in capsys.readouterr().err


def test_one_row_is_too_few(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n')
    assert main(["tune", "bank", "--train", str(path), "--method", "head"]) == 2
    assert f"{path}: one training row" in capsys.readouterr().err


def test_a_row_without_an_answer_names_its_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n{"input": "c"}\n')
    assert main(["tune", "bank", "--train", str(path)]) == 2
    assert f"{path}:2: " in capsys.readouterr().err


def test_a_failed_training_leaves_the_version_in_force_alone(
    workspace: Workspace, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "bank", "--train", str(train_file)]) == 0
    same = tmp_path / "same.jsonl"
    same.write_text('{"input": "a", "output": "b"}\n{"input": "c", "output": "b"}\n')
    assert main(["tune", "bank", "--train", str(same), "--method", "head"]) == 2
    assert f"{same}: all 2 training rows have the answer 'b'" in capsys.readouterr().err
    folder = workspace.use_case("bank")
    assert folder.adapters.all() == ["v0001"]
    assert [state(run) for run in folder.runs()] == ["done", "failed"]


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_context_tuning_reads_the_use_cases_index(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {f"thing{n}": f"The colour of thing{n} is shade{n}." for n in range(12)}
    docs = _write(tmp_path / "corpus.jsonl", [{"id": k, "title": k, "text": v} for k, v in facts.items()])
    rows = [{"question": f"what is the colour of {k}?", "answer": f"shade{k[5:]}", "context_ids": [k]} for k in facts]
    train = _write(tmp_path / "train.jsonl", rows)
    assert main(["ingest", "hues", str(docs)]) == 0
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--context", "--cite", "--gold-share", "1"]
    capsys.readouterr()
    assert main(["tune", "hues", *flags, "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"]["median"] > 60  # the question alone has half as many
    assert main(["tune", "hues", *flags, "--epochs", "0.5", "--rank", "2"]) == 0
    assert "12 of 12 rows show their gold passage" in capsys.readouterr().err
    active = workspace.use_case("hues").adapters.active()
    assert active is not None
    assert json.loads((active / "origin.json").read_text())["recipe"]["context"]["with_gold"] == 12


def test_context_without_passages_says_where_to_get_them(
    home: Path, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "bank", "--train", str(train_file), "--context"]) == 2
    assert "index documents first (tunefork ingest)" in capsys.readouterr().err
    assert main(["tune", "bank", "--train", str(train_file), "--context", "--method", "head"]) == 2
    assert "--context is for --method lora" in capsys.readouterr().err
    assert main(["tune", "bank", "--train", str(train_file), "--cite"]) == 2
    assert "--cite needs --context" in capsys.readouterr().err


def test_a_mistyped_file_or_model_is_not_remembered(
    workspace: Workspace, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "bank", "--train", str(tmp_path / "nope.jsonl")]) == 2
    assert not (workspace.path / "use_cases").exists()
    assert main(["tune", "bank", "--train", str(train_file), "--base-model", "smolm"]) == 2
    assert not (workspace.path / "use_cases").exists()
    capsys.readouterr()
    workspace.declare("bank", {"train": train_file})
    assert main(["tune", "bank", "--train", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert workspace.use_case("bank").settings().train == train_file


def test_a_check_makes_a_use_case_and_changes_none(workspace: Workspace, train_file: Path) -> None:
    assert main(["tune", "bank", "--train", str(train_file), "--check"]) == 0
    assert main(["tune", "bank", "--seed", "7", "--check"]) == 0
    settings = workspace.use_case("bank").settings()
    assert (settings.train, settings.seed) == (train_file, 0)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["red; big", "blue; small", "red; small", "blue; big"], "lists made of 4 labels"),
        (["red", "blue"], "a closed set of 2 labels"),
        ([f"{n}.{n % 7}" for n in range(40)], "the answers are numbers; if they rate or measure the input"),
        ([f"a tale of {n} words" for n in range(40)], "the answers are free text"),
    ],
)
def test_the_rows_decide_the_method_and_the_reason_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[str], said: str
) -> None:
    rows = [{"input": f"row {n}", "output": answers[n % len(answers)]} for n in range(40)]
    train = _write(tmp_path / "t.jsonl", rows)
    given: dict[str, Any] = dict.fromkeys([flag for flags in SETTINGS.values() for flag in flags])
    given |= {"context": False, "gold_share": None, "cite": False, "max_rows": None, "device": None}
    method, recipe = chosen_recipe(train, None, given, seed=3)
    assert said in capsys.readouterr().err
    assert (method, recipe.seed) == ("head" if "labels" in said else "lora", 3)
    if isinstance(recipe, HeadRecipe):
        assert recipe.task == ("multi" if "lists" in said else "single")

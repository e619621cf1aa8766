"""Preference tuning: pairs are read with clear refusals, and the adapter comes to prefer what was chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.cli import main
from core.errors import DataError
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.conftest import run_and_kill
from tuning.preferences import DpoRecipe, read_preferences, train_preferences

PAIR = {"prompt": "say hello", "chosen": "Hello!", "rejected": "what do you want"}


def _file(tmp_path: Path, *rows: dict[str, object]) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_and_chats_are_read_alike(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "say hello"}]
    answers = {key: [*turns, {"role": "assistant", "content": PAIR[key]}] for key in ("chosen", "rejected")}
    plain, split, whole = read_preferences(_file(tmp_path, PAIR, {**PAIR, "prompt": turns}, answers))
    assert (plain.messages, plain.chosen) == (split.messages, split.chosen) == (whole.messages, whole.chosen)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x", "chosen": "a"}, "`rejected` is missing or empty"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "are the same answer"),
        ({"chosen": "a", "rejected": "b"}, "no input; wanted one of `messages`"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}, "end with a user turn"),
    ],
)
def test_a_pair_that_prefers_nothing_is_refused_by_file_and_line(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    path = _file(tmp_path, PAIR, row)
    with pytest.raises(DataError, match=rf"pairs\.jsonl:2: .*{said}"):
        read_preferences(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_adapter_comes_to_prefer_the_chosen_answers(workspace: Workspace, tiny_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    words = [f"word{n}" for n in range(24)]
    rows = [{"prompt": f"tell me of {w}", "chosen": f"gladly, of {w}", "rejected": f"no {w} today"} for w in words]
    settings = UseCase(name="tiny", base_model=str(tiny_base))
    recipe = DpoRecipe(epochs=3, learning_rate=0.01, rank=4, harm_check=False)
    report = train_preferences(tmp_path / "a", settings, workspace, read_preferences(_file(tmp_path, *rows)), recipe)
    assert report.scores["loss_last"] < 0.6 < report.scores["loss_first"]
    assert (report.rows, report.scores["dev_preferred"]["n"]) == (22, 2)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), report.folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_makes_a_version(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    path = _file(tmp_path, *[{**PAIR, "prompt": f"say hello {n}"} for n in range(4)])
    flags = ["--preferences", str(path), "--base-model", str(tiny_base), "--epochs", "1", "--rank", "2", "--json"]
    assert main(["tune", "polite", *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["scores"]["objective"]) == ("v0001", "dpo")
    assert main(["tune", "polite", "--preferences", str(path), "--unfreeze"]) == 2
    assert "--unfreeze is for --method head" in capsys.readouterr().err


_KILLED = """
import sys
from pathlib import Path
from core.settings import UseCase
from core.workspace import Workspace
from tests.tuning.conftest import run_and_kill
from tuning.preferences import DpoRecipe, read_preferences, train_preferences
home, base, pairs, recipe, target = sys.argv[1:]
settings, recipe = UseCase(name="tiny", base_model=base), DpoRecipe.model_validate_json(recipe)
train_preferences(Path(target), settings, Workspace(Path(home)), read_preferences(Path(pairs)), recipe)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_training_killed_outright_goes_on_to_the_same_weights(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    pairs = _file(tmp_path, *[{**PAIR, "prompt": f"say hello {n}"} for n in range(10)])
    recipe = DpoRecipe(epochs=4, learning_rate=0.01, rank=4, harm_check=False, checkpoint_seconds=1e-6)
    training = workspace.path / "use_cases" / "tiny" / "training"
    arguments = (workspace.path, tiny_base, pairs, recipe.model_dump_json(), tmp_path / "killed")
    run_and_kill(lambda: bool(list(training.glob("*/checkpoint-*/trainer_state.json"))), _KILLED, *arguments)
    (state,) = training.iterdir()
    # What a kill in the middle of a checkpoint leaves is passed over.
    (state / "checkpoint-99999").mkdir()

    settings = UseCase(name="tiny", base_model=str(tiny_base))
    # Not a checkpoint a step any more: it is no part of what the training becomes.
    rarely = recipe.model_copy(update={"checkpoint_seconds": 60.0})
    resumed = train_preferences(tmp_path / "killed", settings, workspace, read_preferences(pairs), rarely)
    assert "going on after step" in capsys.readouterr().err
    assert not state.exists()
    unbroken = train_preferences(tmp_path / "unbroken", settings, workspace, read_preferences(pairs), rarely)
    assert resumed.scores["steps"] == unbroken.scores["steps"] == 12
    found, wanted = (load_file(r.folder / "adapter_model.safetensors") for r in (resumed, unbroken))
    assert all(torch.allclose(found[name], wanted[name], atol=1e-4) for name in wanted)

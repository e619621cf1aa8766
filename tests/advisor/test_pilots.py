"""A pilot is trained once for what it is made of, and anew when that changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.rows import Row
from core.workspace import Workspace
from tests.advisor.runs import advise, write_rows

pytestmark = pytest.mark.usefixtures("encoder_folder")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Row]]:
    """The rows of every training; nothing is trained."""
    found: list[Sequence[Row]] = []

    def train(target: Path, _settings: Any, _workspace: Any, rows: Sequence[Row], recipe: Any, **_: Any) -> None:
        assert not recipe.harm_check
        found.append(rows)
        target.mkdir(parents=True)
        (target / "origin.json").write_text(json.dumps({"train_s": 1.0}), encoding="utf-8")

    monkeypatch.setattr("tuning.train.train_lora", train)
    return found


def test_a_pilot_trained_with_passages_is_another_one_when_its_passages_or_their_words_change(
    workspace: Workspace, project: Path, base: Any, trained: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cities = [f"City{chr(65 + i)}" for i in range(20)]
    rows = [{"id": c, "question": f"Where is the {c} office?", "answer": f"{c} street"} for c in cities]
    write_rows(project / "train.jsonl", rows[:12])
    write_rows(project / "eval.jsonl", rows[12:])
    write_rows(project / "docs.jsonl", [{"id": c, "text": f"The {c} office is in {c} street."} for c in cities])

    def trainings(more: str) -> int:
        toml = 'name = "offices"\neval = "eval.jsonl"\ntrain = "train.jsonl"\ndocs = "docs.jsonl"\ntop_k = 2\n'
        (project / "use_case.toml").write_text(toml + more, encoding="utf-8")
        before = len(trained)
        base(lambda _: "I like trains.")
        advise(capsys, str(project / "use_case.toml"), "--arms", "tune_retrieved")
        return len(trained) - before

    assert trainings("") == 1
    assert trainings("") == 0
    assert trainings("[grounding]\ncite = true\n") == 1
    assert trainings('[grounding]\ncontext = "last"\n') == 1
    # Fewer passages are found: those below a score that none reaches are not shown.
    assert trainings("[retrieval]\nmin_score = 1.0\n") == 1
    assert trainings("") == 0
    assert "[1] " in trained[0][0].input
    assert "[1] " not in trained[3][0].input


def test_a_head_pilot_answers_with_several_labels_where_the_rows_list_several(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"red": "of the colour red", "blue": "of the colour blue", "big": "huge in size", "small": "tiny in size"}
    lists = [(a, b) for a in ("red", "blue") for b in ("big", "small")] + [("red",), ("blue",), ("big",), ("small",)]
    rows = [
        {"text": f"item {n}: {' and '.join(said[label] for label in some)}", "label": "; ".join(some)}
        for n, some in enumerate(lists * 8)
    ]
    write_rows(project / "train.jsonl", rows[:48])
    write_rows(project / "eval.jsonl", rows[48:])
    base(lambda _: "I like trains.")
    args = ["--eval", str(project / "eval.jsonl"), "--train", str(project / "train.jsonl"), "--arms", "tune:head"]
    verdict = advise(capsys, "things", *args)
    assert verdict["arms"]["tune:head"]["correct"] >= 12
    pilots = list((workspace.use_case("things").path / "pilots").glob("head-*"))
    assert {json.loads((pilot / "labels.json").read_text())["task"] for pilot in pilots} == {"multi"}

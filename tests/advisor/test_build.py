"""What `build` trains is what `advise` measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.build import build
from core.rows import Row
from core.workspace import Workspace

pytestmark = pytest.mark.usefixtures("encoder_folder")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows that an adapter is trained on; nothing is trained."""
    rows: list[Row] = []

    def train(target: Path, _settings: Any, _workspace: Any, given: Sequence[Row], *_args: Any, **_named: Any) -> None:
        rows.extend(given)
        (target / "adapter").write_text("", encoding="utf-8")

    monkeypatch.setattr("tuning.train.train_lora", train)
    return rows


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    cities = ("Lima", "Oslo", "Cairo")
    train = [{"id": city, "question": f"Where is the {city} office?", "answers": [f"{city} street"]} for city in cities]
    corpus = [{"id": city, "text": f"The {city} office is in {city} street."} for city in cities]
    held = [{"id": "q", "question": "Where is the Bern office?", "answers": ["Bern street"]}]
    paths = {}
    for name, rows in (("train", train), ("corpus", corpus), ("eval", held)):
        paths[name] = tmp_path / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@pytest.mark.parametrize(("route", "grounded"), [("tune", False), ("rag+tune", True)])
def test_an_adapter_beside_retrieval_is_trained_with_passages(
    route: str, grounded: bool, workspace: Workspace, files: dict[str, Path], trained: list[Row]
) -> None:
    flags = {"eval": files["eval"], "train": files["train"], "docs": (files["corpus"],), "top_k": 2}
    folder, settings = workspace.declare("offices", flags)
    remedy = build(folder, settings, workspace, route)
    assert (remedy.route, remedy.method) == (route, "lora")
    for row in trained:
        assert ("[1] " in row.input and f"The {row.id} office is in {row.id} street." in row.input) == grounded
        assert row.output == f"{row.id} street"
    assert len(trained) == 3


def test_the_method_that_the_user_insists_on_is_built(
    workspace: Workspace, files: dict[str, Path], trained: list[Row]
) -> None:
    folder, settings = workspace.declare("offices", {"eval": files["eval"], "train": files["train"]})
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.verdict_path.write_text(json.dumps({"route": "tune", "method": "head", "run": "r"}), encoding="utf-8")
    assert build(folder, settings, workspace, method="lora").method == "lora"
    assert len(trained) == 3

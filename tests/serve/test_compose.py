"""What each route and variant is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engines.prompted import PromptedEngine
from core.errors import ArtifactError
from core.files import write_json
from core.prompts import Demonstration
from core.remedy import Remedy
from core.workspace import UseCaseFolder
from serve.compose import compose, plan
from tests.serve.conftest import EchoEngine


def remedy(route: str, **fields: object) -> Remedy:
    values = {
        "use_case": "x",
        "route": route,
        "base_model": "echo",
        "embedding_model": "e",
        "instruction": "I",
        "answer_format": "F",
        "demonstrations": (("a", "b"),),
        "top_k": 3,
    }
    return Remedy.model_validate({**values, **fields})


@pytest.fixture
def folder(tmp_path: Path) -> UseCaseFolder:
    """A use case with index v0001 and the adapters v0001 (lora) and v0002 (head, in force)."""
    folder = UseCaseFolder(tmp_path / "x")
    with folder.index.build():
        pass
    folder.index.activate("v0001")
    for method in ("lora", "head"):
        with folder.adapters.build() as staging:
            write_json(staging / "origin.json", {"method": method})
    folder.adapters.activate("v0002")
    return folder


DEMONSTRATIONS = (Demonstration("a", "b"),)


@pytest.mark.parametrize(
    ("route", "answer_format", "demonstrations", "index", "adapter"),
    [
        ("base", "", (), None, None),
        ("none", "", (), None, None),
        ("undecided", "", (), None, None),
        ("prompt", "F", (), None, None),
        ("few-shot", "F", DEMONSTRATIONS, None, None),
        ("rag", "F", (), "v0001", None),
        ("tune", "", (), None, "v0001"),
        ("rag+tune", "", (), "v0001", "v0001"),
    ],
)
def test_route(
    folder: UseCaseFolder, route: str, answer_format: str, demonstrations: object, index: str, adapter: str
) -> None:
    made = plan(remedy(route, adapter_version="v0001"), "", folder.index, folder.adapters)
    assert (made.base_model, made.instruction, made.answer_format) == ("echo", "I", answer_format)
    assert made.demonstrations == demonstrations
    assert (made.index and made.index.name) == index
    assert (made.adapter and made.adapter.name) == adapter
    assert not made.head


def test_variants_use_what_is_in_force(folder: UseCaseFolder) -> None:
    built = remedy("base")
    assert plan(built, "rag", folder.index, folder.adapters).index == folder.index.active()
    tuned = plan(built, "tune", folder.index, folder.adapters)
    assert tuned.adapter == folder.adapters.active()
    assert tuned.head
    assert plan(remedy("rag+tune"), "base", folder.index, folder.adapters).index is None


def test_version_that_is_gone_is_said(folder: UseCaseFolder) -> None:
    with pytest.raises(ArtifactError, match="v0009"):
        plan(remedy("tune", adapter_version="v0009"), "", folder.index, folder.adapters)


def test_artifact_of_unknown_method_is_refused(folder: UseCaseFolder) -> None:
    write_json(folder.adapters.folder / "v0001" / "origin.json", {"method": "magic"})
    with pytest.raises(ArtifactError, match="magic"):
        plan(remedy("tune", adapter_version="v0001"), "", folder.index, folder.adapters)


class Parts:
    def base(self, model: str) -> EchoEngine:
        return EchoEngine(model)

    def grounded(self, engine: object, index: Path, top_k: int) -> tuple[object, str, int]:
        return engine, index.name, top_k

    def head(self, adapter: Path) -> str:
        return f"head {adapter.name}"


def test_rag_over_an_adapter_grounds_the_adapted_engine(folder: UseCaseFolder) -> None:
    made = plan(remedy("rag+tune", adapter_version="v0001"), "", folder.index, folder.adapters)
    engine, index, top_k = compose(made, Parts())  # type: ignore[misc, arg-type]
    assert isinstance(engine, PromptedEngine)
    assert engine.adapter == str(folder.adapters.folder / "v0001")
    assert (index, top_k) == ("v0001", 3)


def test_head_answers_without_the_base_model(folder: UseCaseFolder) -> None:
    made = plan(remedy("tune", method="head", adapter_version="v0002"), "", folder.index, folder.adapters)
    assert compose(made, Parts()) == "head v0002"  # type: ignore[arg-type, comparison-overlap]

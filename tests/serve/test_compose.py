"""What each route and variant is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engines.prompted import PromptedEngine
from core.errors import ArtifactError
from core.prompts import Demonstration
from core.remedy import Remedy
from core.workspace import UseCaseFolder
from serve.compose import compose, plan
from tests.serve.conftest import EchoEngine
from tuning.adapters import ORIGIN, Origin, save_origin


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


def origin(method: str) -> Origin:
    values = {"method": method, "base_model": "echo", "base_fingerprint": "f", "instruction": "T", "train_s": 1.0}
    empty: dict[str, object] = {"data": {"rows": 2, "dev_rows": 0}, "recipe": {}, "scores": {}, "versions": {}}
    return Origin.model_validate({**values, **empty, "created": "2026-01-01T00:00:00+00:00"})


@pytest.fixture
def folder(tmp_path: Path) -> UseCaseFolder:
    """A use case with index v0001 and the adapters v0001 (lora) and v0002 (head, in force)."""
    folder = UseCaseFolder(tmp_path / "x")
    with folder.index.build():
        pass
    folder.index.activate("v0001")
    for method in ("lora", "head"):
        with folder.adapters.build() as staging:
            save_origin(staging, origin(method))
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
    trained_with = "T" if adapter else "I"
    assert (made.base_model, made.instruction, made.answer_format) == ("echo", trained_with, answer_format)
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
    path = folder.adapters.folder / "v0001" / ORIGIN
    path.write_text(path.read_text(encoding="utf-8").replace('"lora"', '"magic"'), encoding="utf-8")
    with pytest.raises(ArtifactError, match="'lora', 'head' or 'full'"):
        plan(remedy("tune", adapter_version="v0001"), "", folder.index, folder.adapters)


class Parts:
    def base(self, model: str) -> EchoEngine:
        return EchoEngine(model)

    def grounded(self, engine: object, index: Path, top_k: int, context: object) -> tuple[object, str, int]:
        return engine, index.name, top_k

    def check_adapter(self, adapter: Path, base_model: str) -> None:
        self.checked = (adapter.name, base_model)

    def head(self, adapter: Path) -> str:
        return f"head {adapter.name}"


def test_rag_over_an_adapter_grounds_the_adapted_engine(folder: UseCaseFolder) -> None:
    made = plan(remedy("rag+tune", adapter_version="v0001"), "", folder.index, folder.adapters)
    parts = Parts()
    engine, index, top_k = compose(made, parts)  # type: ignore[misc, arg-type]
    assert parts.checked == ("v0001", "echo")
    assert isinstance(engine, PromptedEngine)
    assert engine.adapter == str(folder.adapters.folder / "v0001")
    assert (index, top_k) == ("v0001", 3)


def test_head_answers_without_the_base_model(folder: UseCaseFolder) -> None:
    made = plan(remedy("tune", method="head", adapter_version="v0002"), "", folder.index, folder.adapters)
    assert compose(made, Parts()) == "head v0002"  # type: ignore[arg-type, comparison-overlap]


def test_a_full_model_answers_in_the_base_models_place(folder: UseCaseFolder) -> None:
    with folder.adapters.build() as staging:
        save_origin(staging, origin("full"))
    folder.adapters.activate("v0003")
    made = plan(remedy("rag"), "tune", folder.index, folder.adapters)
    assert made.model == folder.adapters.folder / "v0003"
    assert made.adapter is None
    assert made.instruction == "T"

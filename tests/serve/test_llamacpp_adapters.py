"""Adapters on llama.cpp: the same change as on transformers, loaded as they are asked for, without harm to answers under way.

On a tiny model of random weights, in 16 bits, and by log probabilities: words may differ where two tokens are almost
equally probable.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engines.base import Engine
from core.errors import EngineError
from core.models import local_folder
from core.remedy import Remedy, save_remedy
from core.types import Completion, Message, Request, Sampling
from core.workspace import Workspace
from serve.catalog import Catalog
from serve.opening import opener
from tests.core.engines.tiny import tiny_adapter, tiny_model
from tuning.adapters import Origin, base_fingerprint, save_origin
from tuning.gguf_export import export_adapter, export_model

xllamacpp = pytest.importorskip("xllamacpp")

from core.engines.llamacpp import LlamaCppEngine  # noqa: E402 - only where xllamacpp is

QUESTIONS = ("Who makes honey?", "Where do ships sail?", "What is seven and five?")


def sign(adapter: Path, base_model: str, base: Path) -> Path:
    """`adapter` with the origin.json that training writes."""
    fields = {"recipe": {}, "scores": {}, "train_s": 0.0, "versions": {}, "created": "2026-01-01"}
    data = {"rows": 1, "dev_rows": 0}
    fingerprint = base_fingerprint(base)
    save_origin(
        adapter,
        Origin.model_validate(
            {"method": "lora", "base_model": base_model, "base_fingerprint": fingerprint, "data": data, **fields}
        ),
    )
    return adapter


@pytest.fixture(scope="module")
def made(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, model.gguf and the adapters a/, b/ and c/."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_model("LlamaConfig", folder / "model", starter_folder)
    export_model(model, folder / "model.gguf", "tiny")
    for seed, name in enumerate("abc"):
        sign(tiny_adapter(folder / name, model, seed), str(model), model)
    return folder


@pytest.fixture(scope="module")
def engine(made: Path) -> Iterator[LlamaCppEngine]:
    model = made / "model"

    def convert(adapter: Path, target: Path) -> None:
        export_adapter(adapter, str(model), model, target)

    opened = LlamaCppEngine(made / "model.gguf", str(model), slots=4, convert=convert, adapters=[str(made / "a")])
    yield opened
    opened.close()


def ask(question: str, adapter: Path | None, **sampling: int) -> Request:
    chosen = Sampling(**{"max_tokens": 1, **sampling})
    return Request((Message("user", question),), chosen, adapter=None if adapter is None else str(adapter))


def first_token(engine: Engine, question: str, adapter: Path | None) -> dict[bytes, float]:
    """Log probabilities of the likeliest first tokens."""
    (answer,) = engine.complete([ask(question, adapter, top_logprobs=8)])
    assert isinstance(answer, Completion), answer
    assert answer.logprobs is not None
    return {raw: logprob for _, logprob, raw in answer.logprobs[0].top}


def distance(one: dict[bytes, float], other: dict[bytes, float]) -> float:
    """Largest difference over the tokens that both name; far where they name no two in common."""
    common = set(one) & set(other)
    return max(abs(one[t] - other[t]) for t in common) if len(common) > 1 else 99.0


def test_adapters_change_answers_as_on_transformers(engine: LlamaCppEngine, made: Path) -> None:
    import torch

    from core.engines.transformers import TransformersEngine

    local = TransformersEngine(made / "model", str(made / "model"), dtype=torch.float32)
    try:
        chosen = (None, made / "a", made / "b")
        for question in QUESTIONS:
            here = [first_token(engine, question, adapter) for adapter in chosen]
            there = [first_token(local, question, adapter) for adapter in chosen]
            for i, j in itertools.product(range(3), repeat=2):
                assert (distance(here[i], there[j]) < 0.1) == (i == j), (question, i, j)
    finally:
        local.close()


def test_adapter_that_is_new_takes_a_second_server_and_answers_under_way_stay_whole(
    engine: LlamaCppEngine, made: Path
) -> None:
    before = engine._now
    engine.complete([ask("x", made / "a")])
    assert engine._now is before, "an adapter that is there from the start needs no second server"
    stream = engine.stream(ask("Tell a story.", made / "a", max_tokens=300))
    pieces = [next(stream)]
    mixed = engine.complete([ask(q, adapter) for q in QUESTIONS for adapter in (None, made / "c", made / "a")])
    assert all(isinstance(answer, Completion) for answer in mixed)
    assert engine._now is not before
    pieces += stream
    last = pieces[-1].completion
    assert last is not None
    assert "".join(piece.text for piece in pieces) == last.text
    assert engine._servers == [engine._now], "the first server ends with its last answer"


def test_adapter_that_cannot_answer_fails_alone(engine: LlamaCppEngine, starter_folder: Path, tmp_path: Path) -> None:
    other = tiny_model("LlamaConfig", tmp_path / "other", starter_folder, num_hidden_layers=2)
    foreign = sign(tiny_adapter(tmp_path / "foreign", other), str(other), other)
    good, gone, wrong = engine.complete([ask("x", None), ask("x", tmp_path / "none"), ask("x", foreign)])
    assert isinstance(good, Completion)
    assert "no adapter there" in str(gone)
    assert isinstance(wrong, EngineError)
    assert "was trained on" in str(wrong)
    with pytest.raises(EngineError, match="no adapter there"):
        next(iter(engine.stream(ask("x", tmp_path / "none"))))


def test_engine_opened_without_adapters_says_so(made: Path) -> None:
    engine = LlamaCppEngine(made / "model.gguf", "tiny", slots=2)
    try:
        (answer,) = engine.complete([ask("x", made / "a")])
        assert "base model only" in str(answer)
    finally:
        engine.close()


@pytest.mark.slow
def test_use_case_with_an_adapter_is_served_from_a_gguf_file(made: Path, workspace: Workspace) -> None:
    model = str(made / "model.gguf")
    folder, _ = workspace.declare("faq", {"base_model": model})
    base = local_folder(model, workspace.models)
    with folder.adapters.build() as staging:
        sign(tiny_adapter(staging, base, 3), model, base)
    folder.adapters.activate("v0001")
    built = {"use_case": "faq", "route": "tune", "method": "lora", "base_model": model, "embedding_model": "e"}
    save_remedy(folder.remedy_path, Remedy.model_validate({**built, "adapter_version": "v0001"}))
    catalog = Catalog(workspace, opener(workspace, "llamacpp"))
    try:
        with catalog.lease("faq") as tuned, catalog.lease("faq:base") as plain:
            assert tuned.engine_kind == "llamacpp"
            found = [first_token(served.engine, QUESTIONS[0], None) for served in (tuned, plain)]
            assert distance(*found) > 0.5
    finally:
        catalog.close()

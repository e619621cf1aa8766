"""The logistic head: right, calibrated, saved without pickle, and an Engine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ArtifactError, ConfigError, DataError, EngineError, EngineUnavailable
from core.rows import Row
from core.settings import UseCase
from core.types import Completion, Message, Request
from core.workspace import Workspace
from tests.tuning.conftest import row
from tuning.head import Head, calibration_error, fit_head, fit_temperature, load_head_weights, save_head, softmax
from tuning.head_engine import HeadEngine, load_head
from tuning.recipe import HeadRecipe
from tuning.train import TrainReport, train_head


def _clouds(n: int, labels: int, spread: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % labels
    centres = np.random.default_rng(99).normal(size=(labels, 16))
    return (centres[y] + spread * rng.normal(size=(n, 16))).astype(np.float32), [f"label {i}" for i in y]


def test_a_head_generalises_on_separable_clouds() -> None:
    features, answers = _clouds(200, 4, 0.3)
    fit = fit_head(features, answers, HeadRecipe())
    fresh, expected = _clouds(400, 4, 0.3, seed=1)
    best = fit.head.probabilities(fresh).argmax(axis=1)
    assert np.mean([fit.head.labels[i] == e for i, e in zip(best, expected, strict=True)]) > 0.97
    assert fit.judged == 200


def test_probabilities_are_calibrated_on_fresh_rows() -> None:
    features, answers = _clouds(600, 4, 2.0)
    fit = fit_head(features, answers, HeadRecipe())
    fresh, expected = _clouds(4000, 4, 2.0, seed=1)
    p = fit.head.probabilities(fresh)
    right = np.array([fit.head.labels[i] == e for i, e in zip(p.argmax(axis=1), expected, strict=True)])
    assert 0.5 < right.mean() < 0.99
    assert calibration_error(p.max(axis=1), right) < 0.05


def test_two_labels_give_a_proper_distribution() -> None:
    features, answers = _clouds(60, 2, 0.3)
    p = fit_head(features, answers, HeadRecipe()).head.probabilities(features)
    assert p.shape == (60, 2)
    assert np.allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == np.arange(60) % 2).mean() > 0.95


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    y = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    assert fit_temperature(5 * logits, y) == pytest.approx(5, rel=0.15)


def test_labels_with_one_row_each_can_still_be_fitted() -> None:
    features, _ = _clouds(3, 3, 0.1)
    fit = fit_head(features, ["a", "b", "c"], HeadRecipe())
    assert fit.judged == 0
    assert list(fit.head.probabilities(features).argmax(axis=1)) == [0, 1, 2]


def test_one_label_for_all_rows_is_refused() -> None:
    with pytest.raises(DataError, match="all 5 training rows have the answer 'yes'"):
        fit_head(np.zeros((5, 4), dtype=np.float32), ["yes"] * 5, HeadRecipe())


def test_a_saved_head_is_the_same_head(tmp_path: Path) -> None:
    features, answers = _clouds(60, 3, 0.3)
    head = fit_head(features, answers, HeadRecipe()).head
    save_head(tmp_path, head)
    assert np.array_equal(load_head_weights(tmp_path).probabilities(features), head.probabilities(features))


def test_weights_that_do_not_fit_the_labels_are_refused(tmp_path: Path) -> None:
    save_head(tmp_path, Head(("a", "b"), np.zeros((3, 4), dtype=np.float32), np.zeros(3, dtype=np.float32)))
    with pytest.raises(ArtifactError, match="names 2 labels, the weights 3"):
        load_head_weights(tmp_path)


@pytest.fixture(scope="module")
def trained(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, TrainReport]:
    from tests.tuning import conftest

    workspace = Workspace(tmp_path_factory.mktemp("home"))
    rows = conftest.card_rows.__wrapped__()
    report = train_head(workspace.path / "pilot", UseCase(name="tiny"), workspace, rows)
    return workspace, report


@pytest.fixture(scope="module")
def engine(trained: tuple[Workspace, TrainReport]) -> HeadEngine:
    workspace, report = trained
    return load_head(report.folder, workspace.models)


def _ask(text: str) -> Request:
    return Request((Message("user", "hello"), Message("assistant", "hi"), Message("user", text)))


def test_the_engine_answers_with_the_label_of_the_last_user_turn(engine: HeadEngine) -> None:
    results = engine.complete([_ask("my card was stolen"), _ask("what is your exchange rate")])
    assert [r.text for r in results if isinstance(r, Completion)] == ["card_lost", "exchange_rate"]


def test_usage_is_counted(engine: HeadEngine) -> None:
    result = engine.complete([_ask("my card was stolen")])[0]
    assert isinstance(result, Completion)
    assert result.usage.prompt_tokens == engine.count_tokens("my card was stolen") > 4


def test_a_stream_is_the_label_as_one_delta(engine: HeadEngine) -> None:
    deltas = list(engine.stream(_ask("my card was stolen")))
    assert [d.text for d in deltas] == ["card_lost"]
    assert deltas[0].completion is not None
    assert deltas[0].completion.text == "card_lost"


def test_every_item_is_reported_once_done(engine: HeadEngine) -> None:
    seen: list[int] = []
    engine.complete([_ask("a"), _ask("b"), _ask("c")], lambda i, _: seen.append(i))
    assert sorted(seen) == [0, 1, 2]


def test_a_chat_without_a_user_turn_is_an_error_of_that_item_only(engine: HeadEngine) -> None:
    results = engine.complete([Request((Message("system", "x"),)), _ask("my card was stolen")])
    assert isinstance(results[0], EngineError)
    assert isinstance(results[1], Completion)


def test_threads_get_their_own_answers(engine: HeadEngine) -> None:
    texts = {"my card was stolen": "card_lost", "exchange rate for euros": "exchange_rate", "a top-up": "top_up"}
    asked = list(texts) * 20
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: engine.complete([_ask(text)])[0], asked))
    assert [g.text for g in got if isinstance(g, Completion)] == [texts[text] for text in asked]


def test_an_unsure_head_abstains_when_told_to(trained: tuple[Workspace, TrainReport], engine: HeadEngine) -> None:
    unsure = HeadEngine(engine._open(), engine._head, "m", abstain_below=0.999, abstain_answer="not sure")
    result = unsure.complete([_ask("lovely weather")])[0]
    assert isinstance(result, Completion)
    assert result.text == "not sure"


def test_a_closed_engine_says_so(trained: tuple[Workspace, TrainReport]) -> None:
    workspace, report = trained
    engine = load_head(report.folder, workspace.models)
    engine.close()
    engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        engine.complete([_ask("a")])


def test_the_artifact_holds_no_pickle_and_knows_its_origin(trained: tuple[Workspace, TrainReport]) -> None:
    _, report = trained
    names = sorted(p.name for p in report.folder.iterdir())
    assert names == ["README.md", "head.safetensors", "labels.json", "origin.json"]
    origin = json.loads((report.folder / "origin.json").read_text())
    assert origin["method"] == "head"
    assert origin["base_model"] == "all-minilm-l6-v2"
    assert origin["data"]["rows"] == 24


def test_a_head_of_another_encoder_is_refused_and_both_are_named(
    trained: tuple[Workspace, TrainReport], tmp_path: Path
) -> None:
    workspace, report = trained
    other = tmp_path / "other"
    other.mkdir()
    for path in report.folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    origin = json.loads((other / "origin.json").read_text())
    (other / "origin.json").write_text(json.dumps(origin | {"base_fingerprint": "0" * 64}))
    with pytest.raises(ArtifactError, match="all-minilm-l6-v2"):
        load_head(other, workspace.models)


def test_features_are_computed_once(
    trained: tuple[Workspace, TrainReport], card_rows: list[Row], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tuning.encoder import Encoder

    workspace, _ = trained
    asked: list[str] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts: asked.extend(texts) or encode(self, texts))
    reordered = [*reversed(card_rows), row("a new question", "top_up", 99)]
    train_head(tmp_path / "again", UseCase(name="tiny"), workspace, reordered)
    assert asked == ["a new question"]


def test_no_rows_and_one_row_are_refused(workspace: Workspace, settings: UseCase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"f\.jsonl: no training rows"):
        train_head(tmp_path / "a", settings, workspace, [], source=Path("f.jsonl"))
    with pytest.raises(DataError, match="one training row"):
        train_head(tmp_path / "a", settings, workspace, [row("a", "b")])


def test_contradictions_and_rare_labels_are_warned_of(
    workspace: Workspace, settings: UseCase, card_rows: list[Row], tmp_path: Path, encoder_folder: Path
) -> None:
    rows = [*card_rows, replace(card_rows[0], answers=("top_up",)), row("odd", "odd_one")]
    warnings = " ".join(train_head(tmp_path / "a", settings, workspace, rows).warnings)
    assert "1 input has two different answers" in warnings
    assert "1 label has one row only: 'odd_one'" in warnings


def test_a_gpu_that_is_not_there_is_refused(
    workspace: Workspace, settings: UseCase, card_rows: list[Row], tmp_path: Path, encoder_folder: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="'cuda' is asked for"):
        train_head(tmp_path / "a", settings, workspace, card_rows, HeadRecipe(device="cuda"))


def test_a_head_that_was_always_right_is_not_certain() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 30)
    logits = 8.0 * np.eye(3)[y]
    confidence = softmax(logits / fit_temperature(logits, y)).max(axis=1)
    assert (confidence < 0.995).all()
    assert (confidence > 0.95).all()
    # More rows that were all right give more certainty.
    many = np.concatenate([y] * 40)
    again = softmax(8.0 * np.eye(3)[many] / fit_temperature(8.0 * np.eye(3)[many], many)).max(axis=1)
    assert (again > confidence.max()).all()

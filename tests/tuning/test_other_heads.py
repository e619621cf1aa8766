"""Heads with several labels or a number, abstention, and heads on the base model's own states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, DataError
from core.label_lists import listed
from core.rows import Row
from core.settings import UseCase
from core.types import Completion, Message, Request, Sampling
from core.workspace import Workspace
from tests.tuning.conftest import row
from tuning.head import climb, load_head_weights, save_head, threshold_for
from tuning.head_engine import load_head
from tuning.other_heads import fit_multi_label, fit_number
from tuning.recipe import HeadRecipe
from tuning.train import train_head


def _two_signs(n: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Rows whose first two features' signs say which of two labels they have, or else `neither`."""
    x = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    names = [[label for label, value in zip(("a", "b"), some, strict=False) if value > 0] for some in x]
    return x, [", ".join(some) or "neither" for some in names]


def test_several_labels_a_row_are_learnt() -> None:
    fit = fit_multi_label(*_two_signs(400, 0), HeadRecipe())
    assert fit.head.labels == ("a", "b", "neither")
    fresh, expected = _two_signs(300, 1)
    said = [fit.head.answer(p) for p in fit.head.probabilities(fresh)]
    right = np.mean([set(listed(s)) == set(listed(e)) for s, e in zip(said, expected, strict=True)])
    assert right > 0.75
    assert abs(right - fit.correct / fit.judged) < 0.12


def test_a_number_is_learnt_and_said_in_its_own_decimals(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    answers = [f"{3 * some[0] - some[1] + 10:.2f}" for some in x]
    fit = fit_number(x[:150], answers[:150], HeadRecipe())
    assert fit.r2 > 0.99
    assert fit.mean_absolute_error < 0.1 * fit.baseline_error
    save_head(tmp_path, fit.head)
    head = load_head_weights(tmp_path)
    said = [head.answer(p) for p in head.probabilities(x[150:])]
    assert all(len(s.partition(".")[2]) == 2 for s in said)
    assert np.allclose([float(s) for s in said], [float(a) for a in answers[150:]], atol=0.1)


def test_a_number_head_refuses_words() -> None:
    with pytest.raises(DataError, match="'blue' is not a number"):
        fit_number(np.zeros((3, 2), dtype=np.float32), ["1", "2", "blue"], HeadRecipe())


def test_the_threshold_reaches_the_asked_precision_with_the_fewest_abstentions() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, True, False, True, False])
    found = threshold_for(confidence, right, 0.8)
    assert found is not None
    assert (found.below, found.precision) == (0.6, 0.8)
    assert found.abstains == pytest.approx(1 / 6)
    assert threshold_for(confidence, ~right, 0.8) is None


@pytest.mark.parametrize("best", range(6))
def test_the_climb_finds_the_only_minimum(best: int) -> None:
    assert climb([0, 1, 2, 3, 4, 5], lambda v: abs(v - best)) == best


def _ask(text: str, top: int | None = None) -> Request:
    return Request((Message("user", text),), Sampling(top_logprobs=top))


def test_a_head_with_several_labels_is_served(
    workspace: Workspace, card_rows: list[Row], encoder_folder: Path, tmp_path: Path
) -> None:
    both = [
        row(f"{a.input}; and {b.input}", f"{a.output}, {b.output}", 90)
        for a, b in zip(card_rows, card_rows[8:], strict=False)
    ]
    report = train_head(tmp_path / "h", UseCase(name="t"), workspace, [*card_rows, *both], HeadRecipe(task="multi"))
    engine = load_head(report.folder, workspace.models)
    assert engine.labels == ("card_lost", "exchange_rate", "top_up")
    one, two = engine.complete([_ask("my card was stolen"), _ask("I lost my card; and what is the exchange rate", 3)])
    assert isinstance(one, Completion) and isinstance(two, Completion)
    assert one.text == "card_lost"
    assert two.text == "card_lost, exchange_rate"
    assert two.logprobs is not None and two.logprobs[0].logprob <= 0


def test_an_asked_precision_becomes_the_served_threshold(
    workspace: Workspace, card_rows: list[Row], encoder_folder: Path, tmp_path: Path
) -> None:
    recipe = HeadRecipe(precision=0.97, abstain_answer="not sure")
    report = train_head(tmp_path / "h", UseCase(name="t"), workspace, card_rows, recipe)
    below = report.scores["abstain_below"]
    assert 0 < below < 1
    engine = load_head(report.folder, workspace.models)
    texts = ["my card was stolen", "lovely weather for ducks today", "how do I top up"]
    sure = engine.probabilities(texts).max(axis=1)
    said = [r.text for r in engine.complete([_ask(t) for t in texts]) if isinstance(r, Completion)]
    assert [s == "not sure" for s in said] == [bool(p < below) for p in sure]


@pytest.mark.slow
def test_a_head_can_read_the_base_models_own_states(
    workspace: Workspace, card_rows: list[Row], starter_folder: Path, tmp_path: Path
) -> None:
    report = train_head(tmp_path / "h", UseCase(name="t"), workspace, card_rows, HeadRecipe(features="base"))
    assert report.base_model == "smollm2-135m-instruct"
    engine = load_head(report.folder, workspace.models)
    said = [r.text for r in engine.complete([_ask(r.input) for r in card_rows]) if isinstance(r, Completion)]
    assert np.mean([s == r.output for s, r in zip(said, card_rows, strict=True)]) > 0.9


def test_unfreezing_is_for_one_label_a_row(workspace: Workspace, card_rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--unfreeze is for a head with one label"):
        train_head(tmp_path / "h", UseCase(name="t"), workspace, card_rows, HeadRecipe(task="multi", unfreeze=True))


@pytest.mark.parametrize("mark", [", ", "; ", "|", "、"])
def test_labels_are_written_as_the_training_rows_write_them(tmp_path: Path, mark: str) -> None:
    x, answers = _two_signs(60, 0)
    fit = fit_multi_label(x, [answer.replace(", ", mark) for answer in answers], HeadRecipe())
    assert fit.head.labels == ("a", "b", "neither")
    save_head(tmp_path, fit.head)
    said = load_head_weights(tmp_path).answer(np.array([0.9, 0.8, 0.1]))
    assert said == f"a{mark}b"

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rag.fusion import RRF_K, fused, ranked, squashed
from rag.scale import LEAST_SPREAD, measured

ROWS = np.array([7, 3, 5])
FINITE = st.floats(-10, 30, width=32)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_words_decide_between_equal_meanings_and_row_order_between_equals() -> None:
    hits = ranked(ROWS, fused(ROWS, scores(2, 2, 2), scores(0, 0, 9), 0.6))
    assert hits.rows == [5, 3, 7]


def test_the_weight_shifts_the_decision_from_words_to_meaning() -> None:
    nearness, words = scores(4, 1, 0), scores(0, 6, 1)
    assert ranked(ROWS, fused(ROWS, nearness, words, 0.2)).rows[0] == 3
    assert ranked(ROWS, fused(ROWS, nearness, words, 0.8)).rows[0] == 7


def test_reciprocal_ranks_by_hand() -> None:
    found = fused(ROWS, scores(3, 2, 1), scores(0, 5, 9), 0.5, "rrf")
    expected = [0.5 / (RRF_K + 1), 0.5 / (RRF_K + 2) + 0.5 / (RRF_K + 2), 0.5 / (RRF_K + 3) + 0.5 / (RRF_K + 1)]
    assert found == pytest.approx([(RRF_K + 1) * one for one in expected])


@given(arrays(np.float32, 6, elements=FINITE), arrays(np.float32, 6, elements=st.floats(0, 30, width=32)))
def test_a_passage_better_in_both_never_comes_after(nearness: np.ndarray, words: np.ndarray) -> None:
    rows = np.arange(6)
    for fusion in ("convex", "rrf"):
        order = ranked(rows, fused(rows, nearness, words, 0.5, fusion)).rows  # type: ignore[arg-type]
        for a in range(6):
            for b in range(6):
                if nearness[a] > nearness[b] + 1e-3 and words[a] > words[b] + 1e-3:
                    assert order.index(a) < order.index(b)


@given(FINITE, FINITE)
def test_a_squashed_score_is_a_share_and_keeps_the_order(a: float, b: float) -> None:
    assert 0 <= squashed(a) <= 1
    if a + 1e-3 < b:
        assert squashed(a) < squashed(b)


def test_nearness_is_counted_from_the_mean_in_spreads_of_the_index() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 8)).astype(np.float32) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = measured(vectors)
    cosines = vectors @ vectors.T
    assert scale.spread == pytest.approx(np.sqrt(cosines.var(axis=1).mean()), rel=1e-3)
    assert scale.standard(cosines[0], vectors[0]).mean() == pytest.approx(0, abs=1e-3)


def test_an_index_of_one_text_has_a_scale_too() -> None:
    assert measured(np.ones((3, 4), np.float32) / 2).spread == LEAST_SPREAD

"""Looking often must not find more than there is: the levels of the looks together hold alpha."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from advisor.spending import LEAST_ITEMS, look_sizes, nominal_levels


@given(st.integers(1, 5000))
def test_looks_rise_and_end_with_every_item(items: int) -> None:
    sizes = look_sizes(items)
    assert sizes[-1] == items
    assert list(sizes) == sorted(set(sizes))
    assert items >= LEAST_ITEMS or sizes == (items,)


@given(st.integers(1, 3000))
def test_levels_rise_and_never_exceed_alpha(items: int) -> None:
    levels = nominal_levels(look_sizes(items))
    assert all(0 < a < b for a, b in itertools.pairwise(levels))
    assert levels[-1] <= 0.05 + 1e-9


def test_one_look_may_spend_everything() -> None:
    assert nominal_levels((30,)) == pytest.approx((0.05,))


@pytest.mark.parametrize("items", [60, 100, 400])
def test_a_walk_without_drift_is_called_a_gain_in_five_of_a_hundred(items: int) -> None:
    sizes = look_sizes(items)
    walks = np.random.default_rng(items).normal(size=(20_000, items)).cumsum(axis=1)
    z = np.stack([np.abs(walks[:, size - 1]) / np.sqrt(size) for size in sizes], axis=1)
    crossed = (z > -ndtri(np.array(nominal_levels(sizes)) / 2)).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.006)


def test_the_first_look_spends_what_the_family_says() -> None:
    # Kim and DeMets' power family with exponent 3 has spent an eighth of 0.05 at half of the items.
    first, last = nominal_levels((50, 100))
    assert first == pytest.approx(0.05 / 8, abs=1e-4)
    assert 0.044 < last < 0.05

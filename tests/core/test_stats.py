"""Our statistics against scipy's and statsmodels', against exact enumeration, and against their own coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from core.errors import ConfigError, DataError
from core.power import detectable_points, items_needed, mcnemar_power
from core.stats import (
    cluster_gain_p,
    cluster_gain_ps,
    cluster_mcnemar,
    holm_discrete,
    mcnemar_exact,
    mcnemar_gain_p,
    mcnemar_gain_ps,
    newcombe_unpaired,
    paired_bootstrap,
    paired_difference,
    paired_p,
    share,
    unpaired_p,
    wilson,
)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_statsmodels(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = proportion_confint(successes, n, method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_no_items_is_refused() -> None:
    with pytest.raises(DataError, match="n = 0"):
        wilson(0, 0)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_statsmodels(gained: int, lost: int) -> None:
    expected = mcnemar([[3, gained], [lost, 4]], exact=True).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(min(1.0, expected), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_cluster_mcnemar_equals_enumeration_of_all_signs(net: list[int]) -> None:
    sums = [
        abs(sum(s * d for s, d in zip(signs, net, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(net))
    ]
    expected = np.mean([total >= abs(sum(net)) for total in sums])
    assert cluster_mcnemar(np.array(net)) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40))
def test_gain_p_is_the_mid_p_and_gain_and_loss_add_up_to_one(gained: int, lost: int) -> None:
    coin = sp.binom(gained + lost, 0.5)
    assert mcnemar_gain_p(gained, lost) == pytest.approx(coin.sf(gained) + coin.pmf(gained) / 2, rel=1e-9)
    assert mcnemar_gain_p(gained, lost) + mcnemar_gain_p(lost, gained) == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_cluster_gain_p_equals_enumeration_of_all_signs(net: list[int]) -> None:
    sums = np.array(
        [sum(s * d for s, d in zip(signs, net, strict=True)) for signs in itertools.product((1, -1), repeat=len(net))]
    )
    expected = (sums > sum(net)).mean() + (sums == sum(net)).mean() / 2
    assert cluster_gain_p(np.array(net)) == pytest.approx(expected, abs=1e-9)


def test_cluster_mcnemar_is_weaker_than_the_item_test_when_items_move_together() -> None:
    assert cluster_mcnemar(np.array([5, 5, 5])) == pytest.approx(0.25)
    assert mcnemar_exact(15, 0) < 0.001


def test_tango_interval_equals_the_published_example() -> None:
    # Tango (1998), table of 44 crossover patients: 43 agree, 0 gained, 1 lost.
    right = np.ones(44, bool)
    lost = right.copy()
    lost[0] = False
    found = paired_difference(lost, right)
    assert (found.low, found.high) == pytest.approx((-0.118, 0.058), abs=0.002)


def test_paired_interval_keeps_a_width_without_discordant_items() -> None:
    found = paired_difference(np.ones(50), np.ones(50))
    assert found.value == 0
    assert found.high == pytest.approx(3.8415 / 53.8415, abs=1e-3)
    assert found.low == pytest.approx(-found.high, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**30))
def test_paired_interval_is_antisymmetric_and_contains_its_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random(30) < 0.6, rng.random(30) < 0.4
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.low <= one.value <= one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-6)


def test_clusters_widen_the_paired_interval() -> None:
    a = np.repeat(np.arange(20) % 2, 5)
    b = np.zeros(100)
    clusters = np.repeat(np.arange(20), 5)
    alone, together = paired_difference(a, b), paired_difference(a, b, clusters)
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    assert share(a, clusters).low < share(a).low


def test_paired_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(1)
    rates = [0.25, 0.15, 0.40, 0.20]  # both right, only a, neither, only b
    cells = rng.choice(4, size=(800, 60), p=rates)
    covered = [
        (found := paired_difference(np.isin(row, (0, 1)), np.isin(row, (0, 3)))).low
        <= rates[1] - rates[3]
        <= found.high
        for row in cells
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_clustered_paired_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(25), 4)
    covered = []
    for _ in range(400):
        shift = np.repeat(rng.normal(0, 0.2, 25), 4)
        gain = np.clip(0.4 + shift, 0, 1)
        draw = rng.random(100)
        found = paired_difference(draw < gain, draw > 0.85, clusters)
        covered.append(found.low <= 0.25 <= found.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_bootstrap_interval_is_close_to_students_and_deterministic() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(200), rng.random(200) * 0.8
    expected = sp.ttest_rel(a, b).confidence_interval()
    found = paired_bootstrap(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found == paired_bootstrap(a, b)


def test_bootstrap_interval_covers_at_its_level_for_skewed_scores() -> None:
    rng = np.random.default_rng(4)
    truth = 0.8 * 0.1
    covered = []
    for _ in range(500):
        a = np.where(rng.random(60) < 0.2, rng.random(60), 0.0)
        b = np.where(rng.random(60) < 0.2, rng.random(60) * 0.2, 0.0)
        found = paired_bootstrap(a, b)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_bootstrap_of_equal_differences_keeps_a_width() -> None:
    found = paired_bootstrap(np.zeros(10), np.zeros(10))
    assert found.low < -0.2
    assert found.high > 0.2


@pytest.mark.parametrize("clusters", [2, 3])
def test_a_few_clusters_tell_no_narrow_interval(clusters: int) -> None:
    rng = np.random.default_rng(5)
    found = paired_bootstrap(rng.random(60), rng.random(60) * 0.5, np.arange(60) % clusters)
    assert found.low < 0 < found.high


def test_the_bootstrap_of_many_items_is_as_exact_as_of_few() -> None:
    rng = np.random.default_rng(6)
    b = rng.random(2000) * 0.4
    a = b + 0.5 + 1e-4 * rng.normal(size=2000)
    expected = sp.ttest_rel(a, b).confidence_interval()
    found = paired_bootstrap(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=4e-7)


def test_sign_flip_p_is_close_to_the_t_test_and_respects_clusters() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(80), rng.random(80) - 0.1
    assert paired_p(a, b) == pytest.approx(sp.ttest_rel(a, b).pvalue, abs=0.02)
    clusters = np.repeat(np.arange(4), 20)
    assert paired_p(np.ones(80), np.zeros(80), clusters) == pytest.approx(2 / 2**4, abs=0.02)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(0, 60))
def test_newcombe_equals_statsmodels(a: int, b: int) -> None:
    low, high = confint_proportions_2indep(a, 40, b, 60, compare="diff", method="newcomb")
    found = newcombe_unpaired(a, 40, b, 60)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_unpaired_p_is_fisher_for_rare_and_chi_squared_for_common_outcomes() -> None:
    assert unpaired_p(0, 8, 1, 8) == pytest.approx(sp.fisher_exact([[0, 8], [1, 7]]).pvalue)
    table = [[438, 472], [459, 451]]
    plain = sp.chi2_contingency(table, correction=False)
    expected = sp.chi2.sf(plain.statistic * 1819 / 1820, 1)
    assert unpaired_p(438, 910, 459, 910) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pvalues", [[0.3], [0.01, 0.04, 0.03, 0.005], [0.5, 0.02, 0.02, 1.0, 0.0]])
def test_without_known_values_the_discrete_step_down_is_holms(pvalues: list[float]) -> None:
    expected = multipletests(pvalues, method="holm")[1].tolist()
    assert holm_discrete(pvalues, [None] * len(pvalues)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5))
def test_counts_that_cannot_reach_a_small_p_cost_the_others_nothing(counts: list[tuple[int, int]]) -> None:
    pvalues = [mcnemar_gain_p(gained, lost) for gained, lost in counts]
    holms = holm_discrete(pvalues, [None] * len(pvalues))
    found = holm_discrete(pvalues, [mcnemar_gain_ps(gained + lost) for gained, lost in counts])
    assert all(p - 1e-12 <= d <= h + 1e-12 for p, d, h in zip(pvalues, found, holms, strict=True))
    silent = holm_discrete([*pvalues, 0.5], [*(mcnemar_gain_ps(a + b) for a, b in counts), mcnemar_gain_ps(0)])
    assert [p for p in silent[:-1] if p < 0.4] == pytest.approx([p for p in found if p < 0.4])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_the_attainable_p_of_clusters_are_those_of_all_signs(net: list[int]) -> None:
    flips = itertools.product((-1, 1), repeat=len(net))
    every = {round(cluster_gain_p(np.array(signs) * np.abs(net)), 12) for signs in flips}
    assert cluster_gain_ps(np.array(net)) == pytest.approx(sorted(every), abs=1e-9)


@pytest.mark.parametrize(("points", "published"), [(30, 37), (20, 62), (15, 100), (10, 170), (5, 520)])
def test_items_needed_is_near_the_table_of_the_method(points: int, published: int) -> None:
    assert items_needed(points) == pytest.approx(published, rel=0.09)


def test_items_needed_reaches_its_power_and_fewer_items_do_not() -> None:
    n = items_needed(20)
    assert mcnemar_power(n, 0.20) >= 0.8 > mcnemar_power(n - 1, 0.20)


def test_mcnemar_power_equals_simulation() -> None:
    rng = np.random.default_rng(6)
    cells = rng.multinomial(50, [0.25, 0.05, 0.70], size=4000)
    rejected = np.mean([mcnemar_exact(g, lost) <= 0.05 and g > lost for g, lost, _ in cells])
    assert mcnemar_power(50, 0.20) == pytest.approx(rejected, abs=0.025)


def test_impossible_gain_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot happen"):
        items_needed(95, loss_rate=0.2)


def test_detectable_gain_shrinks_with_items() -> None:
    assert detectable_points(3) is None
    assert detectable_points(37) == 29
    assert detectable_points(100) == 15

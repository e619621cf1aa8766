"""On use cases whose truth is known: the route on large eval sets, and the error rates on small ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import ACTIONS, KINDS, powered, sample, true_route, world
from benchmarks.trials import best_mean, ours, right, trial


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_eval_set_gets_the_true_route(kind: str) -> None:
    rng = np.random.default_rng(1)
    truth = world(kind, rng)
    route, leading, confidence = ours(sample(truth, 6000, rng, cluster_size=1))
    expected = true_route(truth.rates, truth.harmful)
    assert (route, leading) == (expected, expected)
    assert confidence > 0.95


def test_no_effect_is_rarely_acted_on_where_the_best_mean_nearly_always_is() -> None:
    trials = [trial("null", 60, 1, (7, i), in_steps=False) for i in range(90)]
    assert np.mean([t.route in ACTIONS for t in trials]) <= 0.10  # 5 %, and two standard errors
    assert np.mean([t.mean in ACTIONS for t in trials]) > 0.5


@pytest.mark.parametrize("kind", ["rag", "tune"])
def test_twenty_points_are_seen_with_a_hundred_items(kind: str) -> None:
    trials = [trial(kind, 100, 1, (8, i), powered(kind, 0.20), in_steps=False) for i in range(60)]
    assert np.mean([right(t, t.route) for t in trials]) >= 0.88


def test_the_baseline_takes_any_lead_for_a_win() -> None:
    rng = np.random.default_rng(2)
    assert best_mean(sample(world("null", rng), 40, rng, 1)) != "none"


def test_the_causes_of_regret_add_up_to_it() -> None:
    trials = [trial(kind, 60, 1, (9, i), in_steps=False) for kind in KINDS for i in range(6)]
    for t in trials:
        assert sum(t.causes.values()) == pytest.approx(t.regret["ours"])
        assert min(t.causes["not_shown"], t.causes["undecided"], t.causes["simpler_by_rule"]) >= -1e-12
    assert all(t.causes["undecided"] == 0 for t in trials if t.route != "undecided")
    assert any(t.causes["not_shown"] > 0.1 for t in trials)

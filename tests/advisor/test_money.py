"""Break-even: the formula of decision.md on measured prices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.money import break_even


def arm(name: str, rate: float, usd_per_1k: float | None, build_usd: float = 0.0) -> dict[str, Any]:
    return {"name": name, "rate": rate, "usd_per_1k": usd_per_1k, "build_usd": build_usd}


def test_build_and_evaluation_are_paid_back_by_what_a_query_saves() -> None:
    (found,) = break_even([arm("closed", 0.1, 0.5), arm("tune:lora", 0.8, 1.0, 6.0), arm("few_shot:8", 0.6, 3.0)], 4.0)
    assert (found.arm, found.against) == ("tune:lora", "few_shot:8")
    assert (found.queries, found.queries_per_usd) == (5000, 500.0)  # (6 + 4) / (2 / 1000)
    assert found.text == "tune:lora is the cheaper one from 5,000 queries on."


def test_a_dearer_tuned_arm_never_pays_back_and_its_lower_rate_is_said() -> None:
    (found,) = break_even([arm("tune:head", 0.5, 2.0, 1.0), arm("retrieved", 0.75, 1.0)], 1.0)
    assert (found.queries, found.queries_per_usd) == (None, None)
    assert "costs more" in found.text
    assert found.text.endswith("it answers 25.0 points fewer items right.")


def test_the_best_arm_of_each_kind_is_compared() -> None:
    arms = [
        arm("tune:lora", 0.4, 1.0),
        arm("tune:head", 0.9, 1.0),
        arm("few_shot:3", 0.2, 2.0),
        arm("few_shot:8", 0.3, 4.0),
        arm("retrieved", 0.5, 5.0),
    ]
    assert [(f.arm, f.against) for f in break_even(arms, 0.0)] == [
        ("tune:head", "few_shot:8"),
        ("tune:head", "retrieved"),
    ]


@pytest.mark.parametrize(
    "arms", [[], [arm("retrieved", 0.5, 1.0)], [arm("tune:lora", 0.5, None), arm("retrieved", 0.5, 1.0)]]
)
def test_without_a_priced_tuned_arm_there_is_nothing_to_say(arms: list[dict[str, Any]]) -> None:
    assert break_even(arms, 1.0) == []


@given(st.floats(0.001, 50), st.floats(0.001, 50), st.floats(0, 100), st.floats(0, 100))
def test_from_the_break_even_query_on_the_tuned_arm_has_cost_less(
    tuned: float, other: float, build: float, evaluation: float
) -> None:
    (found,) = break_even([arm("tune:lora", 0.5, tuned, build), arm("retrieved", 0.5, other)], evaluation)
    if found.queries is None:
        assert other <= tuned
    else:
        spent = build + evaluation + found.queries * tuned / 1000
        assert spent <= found.queries * other / 1000 * (1 + 1e-9) + 1e-9

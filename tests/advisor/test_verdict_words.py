"""What a verdict says in words: nothing that its own figures contradict, and the reason that a reader would ask for."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.verdict import DecisionSettings, Verdict, decide
from advisor.verdict_text import render
from core.settings import Constraints
from tests.advisor.tables import rows, table, totals


def shown(verdict: Verdict) -> str:
    """As on a terminal, in one line."""
    console = Console(width=400, file=StringIO())
    with console.capture() as captured:
        console.print(render(verdict))
    return " ".join(captured.get().split())


def slow(made: list[OutcomeRow], **latency_s: float) -> OutcomeTable:
    return OutcomeTable.from_rows(
        [OutcomeRow(r.item, r.arm, r.outcome, latency_s=latency_s.get(r.arm, 0.1)) for r in made]
    )


def why(verdict: Verdict) -> str:
    return " ".join(verdict.reasons)


def test_a_tie_with_demonstrations_is_told_beside_the_gain_over_the_base() -> None:
    verdict = decide(table(["closed", "few_shot:8", "tune"], {"WCC": 40, "CCC": 40, "WWW": 20}))
    assert verdict.route == "few-shot"
    text = shown(verdict)
    assert "tune does not gain as much as delta against few_shot:8" in text
    assert text.index("tune does not gain as much as delta against") < text.index("tune gains against closed")


def test_of_two_candidates_the_lead_is_told() -> None:
    verdict = decide(table(["closed", "retrieved", "tune"], {"CCC": 30, "WCC": 20, "WWC": 30, "WWW": 20}))
    assert verdict.route == "tune"
    assert "Retrieval and tuning both gain; tune is 30.0 points ahead of retrieved." in verdict.reasons


def test_an_arm_over_a_limit_is_told_to_gain_and_why_it_is_not_used() -> None:
    made = rows(["closed", "retrieved", "tune"], {"CCC": 30, "WCC": 20, "WCW": 30, "WWW": 20})
    verdict = decide(slow(made, retrieved=2.0), DecisionSettings(constraints=Constraints(latency_ms=500)))
    assert verdict.route == "tune"
    assert any(
        reason.startswith("retrieved gains against closed") and reason.endswith("but may not be used: over a limit.")
        for reason in verdict.reasons
    )


def test_the_lead_of_a_retriever_over_a_limit_is_not_told_as_no_gain_of_it() -> None:
    made = rows(["closed", "oracle", "retrieved", "tune"], {"CCCC": 40, "WCCC": 20, "WCCW": 30, "WWWW": 10})
    verdict = decide(slow(made, retrieved=2.0), DecisionSettings(constraints=Constraints(latency_ms=500)))
    assert [need.what for need in verdict.needs] == ["limits", "arm:tune_retrieved"]
    assert "passages of our retriever gain 30.0 points over tune" in verdict.needs[0].why


def test_constraints_that_contradict_are_the_reason_for_undecided() -> None:
    made = rows(["closed", "retrieved", "tune"], {"CCC": 30, "WCC": 30, "WWW": 40})
    limits = Constraints(must_cite=True, latency_ms=500)
    verdict = decide(slow(made, retrieved=2.0), DecisionSettings(constraints=limits))
    assert verdict.route == "undecided"
    assert "Undecided: must_cite asks for retrieval, and our retriever is over a declared limit" in why(verdict)
    assert "no route leads" in shown(verdict)


def test_what_gains_and_is_harmful_is_not_told_as_no_gain() -> None:
    verdict = decide(table(["closed", "tune"], {"RW": 45, "RC": 15, "CC": 40}))
    assert verdict.route == "undecided"
    assert "Undecided: tune (harmful) would gain and may not be used" in why(verdict)


@pytest.mark.parametrize(
    ("arms", "patterns"),
    [
        (["closed", "tune_retrieved"], {"CC": 30, "WC": 60, "WW": 10}),
        (["closed", "oracle", "oracle_few_shot"], {"CCC": 30, "WWC": 40, "WWW": 30}),
    ],
)
def test_none_does_not_lead_where_a_gain_cannot_be_placed(arms: list[str], patterns: dict[str, int]) -> None:
    verdict = decide(table(arms, patterns))
    assert verdict.route == "undecided"
    assert verdict.confidence < 0.1
    assert "what it has to be compared with was not measured" in why(verdict)


def test_an_arm_is_asked_for_once() -> None:
    verdict = decide(table(["closed", "tune_oracle"], {"CC": 30, "WC": 60, "WW": 10}))
    asked = [need.what for need in verdict.needs]
    assert {"arm:oracle", "arm:tune"} <= set(asked)
    assert len(asked) == len(set(asked))


def test_what_mends_the_shape_is_not_the_arm_that_spoils_it() -> None:
    made = [
        OutcomeRow(f"q{i}", arm, "correct" if i in right else "wrong", content=int(i in content), form=int(i in right))
        for arm, content, right in (
            ("closed", range(20), range(20)),
            ("few_shot:3", range(20), range(20)),
            ("oracle_few_shot", range(90), range(60)),
        )
        for i in range(100)
    ]
    verdict = decide(OutcomeTable.from_rows(made))
    assert verdict.route == "rag"
    (text,) = [warning.text for warning in verdict.warnings if warning.code == "form_gap"]
    assert text.startswith("oracle_few_shot has 30.0 points of answers with the right content in the wrong shape")
    assert "oracle_few_shot gets" not in text


def test_an_arm_that_loses_loses_points_without_a_sign() -> None:
    verdict = decide(table(["closed", "oracle", "tune"], {"CCW": 30, "CCC": 20, "WCW": 40, "WWW": 10}))
    harm = [warning.text for warning in verdict.warnings if warning.code == "harm"]
    assert len(harm) == 1
    assert harm[0].startswith("tune loses 30.0 points to closed")


def test_missing_rows_are_told_in_a_sentence() -> None:
    verdict = decide(table(["closed", "tune"], {"CC": 30, "WC": 30, "W.": 40}))
    assert "Of 100 items some have no row in tune (40); arms are compared on the items they share." in [
        warning.text for warning in verdict.warnings
    ]


def test_what_n_shows_is_told_by_the_test_that_is_used() -> None:
    assert "exact McNemar" in why(decide(table(["closed", "tune"], {"CC": 50, "WW": 50})))
    unpaired = why(decide(totals(closed=(100, 50), tune=(100, 50))))
    assert "exact McNemar" not in unpaired
    # Two rates of 50 % on 100 items each: 2.8 standard errors of 7.1 points, less the interval's pull to the middle.
    assert "100 items can show a gain of 20 points or more (by the spread seen, 80 % power)." in unpaired


def test_items_of_few_documents_show_less_than_their_number() -> None:
    made = [
        OutcomeRow(r.item, r.arm, r.outcome, cluster=f"d{(int(r.item[1:]) - 1) // 50}")
        for r in rows(["closed", "tune"], {"WC": 50, "WW": 150})
    ]
    verdict = decide(OutcomeTable.from_rows(made))
    assert "200 items in 4 clusters show only the largest gains, and not reliably" in why(verdict)
    assert any(need.what == "items" and "clusters" in need.why for need in verdict.needs)


def test_a_cross_fit_arm_is_explained_and_the_variant_that_ships_is_named() -> None:
    made = table(["closed", "few_shot:3", "few_shot:8"], {"WCC": 40, "CCC": 30, "WCW": 6, "WWC": 6, "WWW": 18})
    verdict = decide(made)
    assert verdict.route == "few-shot"
    explained = [reason for reason in verdict.reasons if "is the variant to ship" in reason]
    crossed = any(comparison.arm == "few_shot:cross-fit" for comparison in verdict.comparisons)
    assert bool(explained) == crossed
    assert all(f"{verdict.route_arm} is the variant to ship" in reason for reason in explained)


def test_a_head_that_is_taken_before_a_better_adapter_says_so() -> None:
    verdict = decide(table(["closed", "tune", "tune:head"], {"WCC": 40, "CCC": 40, "WCW": 3, "WWW": 17}))
    assert verdict.method == "head"
    assert "tune:head (80.0%) stands for tuning beside tune (83.0%): it is cheaper, and within 5 points." in why(
        verdict
    )


def test_no_confidence_is_shown_as_certain() -> None:
    verdict = decide(table(["closed", "oracle", "retrieved"], {"WCC": 400, "CCC": 400}))
    text = shown(verdict)
    assert "confidence over 99%" in text
    assert "confidence 100%" not in text


_ARMS = ["closed", "few_shot:3", "oracle", "oracle_few_shot", "retrieved", "tune", "tune_retrieved"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text("CWR", min_size=7, max_size=7), st.integers(5, 60)), min_size=2, max_size=6),
    st.sets(st.sampled_from(_ARMS[1:]), min_size=1),
    st.booleans(),
    st.sampled_from(["", *_ARMS]),
)
def test_an_undecided_verdict_asks_for_something_and_contradicts_none_of_its_figures(
    patterns: list[tuple[str, int]], kept: set[str], must_cite: bool, late: str
) -> None:
    made = [r for r in rows(_ARMS, dict(patterns)) if r.arm in kept or r.arm == "closed"]
    limits: dict[str, Any] = {"must_cite": must_cite} | ({"latency_ms": 500} if late else {})
    verdict = decide(slow(made, **{late: 2.0}), DecisionSettings(constraints=Constraints(**limits)))
    if verdict.route != "undecided":
        return
    assert verdict.needs
    if "no remedy is shown to gain" in why(verdict):
        assert not [reason for reason in verdict.reasons if " gains " in reason]

"""Each quantity against its formula, and None where the table cannot tell."""

from __future__ import annotations

import pytest

from advisor.case import Case
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.quantities import Quantities, quantities
from advisor.rule import DecisionSettings
from core.stats import Estimate
from tests.advisor.tables import table, totals


def found_in(outcomes: OutcomeTable, arm: str | None = None) -> Quantities:
    case = Case(outcomes, DecisionSettings())
    return quantities(outcomes, case.measured, case.draws, arm)


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def test_k_is_the_oracle_minus_the_base_and_r_the_share_our_retriever_realises() -> None:
    found = found_in(table(["closed", "oracle", "retrieved"], {"CCC": 10, "WCC": 30, "WCW": 20, "WWW": 40}))
    assert value(found["K"]) == pytest.approx(0.5)
    assert value(found["R"]) == pytest.approx(0.6)


def test_r_is_unknown_when_gold_passages_add_nothing() -> None:
    assert found_in(table(["closed", "oracle", "retrieved"], {"CCC": 10, "WWC": 2, "WWW": 40}))["R"] is None


def test_retrieved_stands_in_for_k_without_an_oracle() -> None:
    assert value(found_in(table(["closed", "retrieved"], {"CC": 10, "WC": 30, "WW": 60}))["K"]) == pytest.approx(0.3)


def test_k_is_read_on_content_and_f_is_content_without_form() -> None:
    rows = [OutcomeRow(f"a{i}", "closed", "wrong", content=int(i < 5)) for i in range(20)]
    rows += [OutcomeRow(f"a{i}", "oracle", "wrong", content=int(i < 15)) for i in range(20)]
    found = found_in(OutcomeTable.from_rows(rows))
    assert value(found["K"]) == pytest.approx(0.5)
    assert value(found["F"]) == pytest.approx(0.25)


def test_d_is_few_shot_over_the_prompt_and_l_tuning_over_the_better_of_both() -> None:
    found = found_in(
        table(["closed", "prompt", "few_shot", "tune"], {"CCCC": 10, "WCCC": 10, "WWCC": 20, "WWWC": 30, "WWWW": 30})
    )
    assert value(found["D"]) == pytest.approx(0.2)
    assert value(found["L"]) == pytest.approx(0.3)


def test_b_is_both_over_the_better_of_its_rivals() -> None:
    arms = ["closed", "retrieved", "oracle", "tune", "tune_retrieved"]
    found = found_in(table(arms, {"WCCWC": 30, "WWCWW": 25, "WWWCC": 20, "WWWWC": 10, "WWWWW": 15}))
    assert value(found["B"]) == pytest.approx(0.3)


def test_b_needs_a_single_remedy_to_compare_with() -> None:
    assert found_in(table(["closed", "tune_retrieved"], {"WC": 30, "WW": 70}))["B"] is None


def test_x_is_what_even_gold_passages_with_demonstrations_leave() -> None:
    found = found_in(table(["closed", "oracle_few_shot"], {"WC": 30, "WW": 70}))
    assert value(found["X"]) == pytest.approx(0.7)
    assert found["R"] is None


def test_h_counts_broken_items_and_refusals_turned_wrong() -> None:
    found = found_in(table(["closed", "tune"], {"CW": 5, "RW": 3, "CR": 2, "RC": 10, "WC": 30, "WW": 50}), "tune")
    assert value(found["H"]) == pytest.approx(0.10)


def test_totals_give_gains_but_no_form_gap_and_no_harm() -> None:
    found = found_in(totals(closed=(100, 20), oracle=(100, 60), retrieved=(100, 50), tune=(100, 30)), "retrieved")
    assert value(found["K"]) == pytest.approx(0.4)
    assert value(found["R"]) == pytest.approx(0.75)
    assert value(found["L"]) == pytest.approx(0.1)
    assert found["F"] is None
    assert found["H"] is None

"""What the data and the calls themselves warn of: copies, golds that cannot be given, why calls failed."""

from __future__ import annotations

from advisor.checks import Finding, check_data, together
from advisor.notices import data_notices, error_notices, length_findings
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.verdict import decide
from tests.advisor.rows import row


def words(text: str) -> int:
    return len(text.split())


def test_copies_of_a_question_share_a_cluster_and_others_stay_alone() -> None:
    rows = [row("What is it?", "a", id="1"), row("what is it", "a", id="2"), row("Another", "b", id="3")]
    assert [r.cluster for r in together(rows)] == ["1", "1", None]
    own = [row("What is it?", "a", id="1", cluster="x"), row("What is it?", "a", id="2")]
    assert [r.cluster for r in together(own)] == ["x", "x"]


def test_eight_items_copied_ten_times_are_no_evidence_of_eighty() -> None:
    rows = together([row(f"Question {i % 8}?", "a", id=str(i)) for i in range(80)])
    right = {"closed": 3, "few_shot:3": 6}

    def table(clustered: bool) -> OutcomeTable:
        return OutcomeTable.from_rows(
            OutcomeRow(r.id, arm, "correct" if int(r.id) % 8 < n else "wrong", cluster=r.cluster if clustered else None)
            for r in rows
            for arm, n in right.items()
        )

    assert decide(table(clustered=False)).route == "few-shot"
    assert decide(table(clustered=True)).route == "undecided"


def test_golds_and_inputs_that_do_not_fit_are_named() -> None:
    rows = [
        row("short", "one two", id="fits"),
        row("short", "one two three four", "one", id="one of them fits"),
        row("short", "one two three four", id="gold"),
        row("word " * 20, "one", id="input"),
    ]
    gold, long = length_findings(rows, 3, 10, words)
    assert (gold.code, gold.items) == ("gold_too_long", ("gold",))
    assert "1 of 4 gold answers are longer than an answer may be (3 tokens)" in gold.text
    assert (long.code, long.items) == ("input_too_long", ("input",))
    assert length_findings(rows[:2], 3, None, words) == []


def test_the_reason_of_failed_calls_is_told_once_for_all_arms() -> None:
    failed = [{"arm": arm, "outcome": "error", "error": "no answer in 120 s"} for arm in ("closed", "oracle", "oracle")]
    (notice,) = error_notices([*failed, {"arm": "prompt", "outcome": "wrong"}])
    assert notice.text == "Most failed calls of closed, oracle: no answer in 120 s."


def test_a_set_of_eight_says_what_it_can_show() -> None:
    found = check_data([row(f"Number {i * 7919}?", "a", id=str(i)) for i in range(8)])
    assert [notice.code for notice in data_notices(found)] == ["few_rows"]


def test_findings_that_do_not_bear_on_the_verdict_are_no_warnings() -> None:
    assert data_notices([Finding("languages", "several", 1, ("a",))]) == []

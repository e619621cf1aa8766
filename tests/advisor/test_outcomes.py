"""Reading outcome tables: both shapes, and one clear line for each way they can be wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from advisor.outcomes import OutcomeRow, OutcomeTable, read_outcomes
from core.errors import DataError
from tests.advisor.tables import rows, table, totals


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "outcomes.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def row(**fields: object) -> dict[str, object]:
    return {"item": "q1", "arm": "closed", "outcome": "correct", **fields}


def test_rows_are_aligned_on_items_whatever_their_order(tmp_path: Path) -> None:
    lines = [row(item=item, arm=arm) for item in ("b", "a") for arm in ("tune", "closed")]
    lines[0]["outcome"] = "wrong"
    found = read_outcomes(written(tmp_path, *lines))
    assert found.items == ("a", "b")
    assert found.names == ["closed", "tune"]
    assert found.arms["tune"].correct.tolist() == [1, 0]


def test_unknown_fields_blank_lines_and_numeric_ids_are_accepted(tmp_path: Path) -> None:
    found = read_outcomes(written(tmp_path, row(item=7, answer="Paris"), "", row(item=8, outcome="refused")))
    assert found.items == ("7", "8")
    assert found.counts("closed")[:5] == (2, 1, 0, 1, 0)


def test_error_rows_are_counted_apart_and_not_scored() -> None:
    found = table(["closed", "tune"], {"CE": 2, "WC": 3})
    assert found.counts("tune")[:5] == (3, 3, 0, 0, 2)
    assert np.isnan(found.arms["tune"].correct).sum() == 2


def test_content_follows_the_outcome_where_it_is_not_given() -> None:
    found = OutcomeTable.from_rows(
        [
            OutcomeRow("a", "closed", "wrong", content=1),
            OutcomeRow("b", "closed", "wrong"),
            OutcomeRow("c", "closed", "correct"),
            OutcomeRow("d", "closed", "refused", content=1),
        ]
    )
    assert found.arms["closed"].content.tolist() == [1, 0, 1, 0]


def test_scores_decide_only_where_outcomes_tell_nothing() -> None:
    def read(outcomes: list[str | None]) -> OutcomeTable:
        return OutcomeTable.from_rows(
            [OutcomeRow(str(i), "closed", o, score=0.1 * i) for i, o in enumerate(outcomes)]  # type: ignore[arg-type]
        )

    assert read([None, None]).graded
    assert read(["wrong", "wrong"]).graded
    assert not read(["wrong", "correct"]).graded
    assert read([None, "error", None]).counts("closed")[:5] == (2, None, None, 0, 1)


def test_a_cluster_named_once_holds_for_the_item() -> None:
    found = OutcomeTable.from_rows(
        [
            OutcomeRow("a", "closed", "wrong", cluster="doc"),
            OutcomeRow("a", "tune", "wrong"),
            OutcomeRow("b", "closed", "wrong", cluster="doc"),
            OutcomeRow("c", "closed", "wrong"),
        ]
    )
    assert found.clusters is not None
    assert found.clusters[0] == found.clusters[1] != found.clusters[2]


def test_totals_give_counts_from_a_count_or_a_rate() -> None:
    found = OutcomeTable.from_totals(
        {"arms": {"closed": {"n": 910, "correct": 438}, "tune": {"n": 910, "score": 0.504, "refused": 10, "error": 4}}}
    )
    assert not found.paired
    assert found.counts("closed")[:5] == (910, 438, 472, 0, 0)
    assert found.counts("tune").n == 906
    assert found.counts("tune").total == pytest.approx(0.504 * 906)


def test_totals_with_errors_beside_n_keep_n() -> None:
    arms = {"closed": {"n": 100, "correct": 40, "wrong": 60, "error": 5}}
    assert OutcomeTable.from_totals({"arms": arms}).counts("closed")[:5] == (100, 40, 60, 0, 5)


def test_pretty_printed_totals_and_a_json_array_of_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"metric": "f1", "arms": {"closed": {"n": 10, "correct": 4}}}, indent=2))
    assert read_outcomes(path).metric == "f1"
    path.write_text(json.dumps([row(), row(item="q2")]))
    assert len(read_outcomes(path).items) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([row(), row(item="q2", outcome="right")], r':2: "outcome" is \'right\'; it must be one of correct, wrong'),
        ([row(), row()], r":2: item 'q1' stands twice in arm 'closed'"),
        ([row(), '{"item": "q2", "arm'], ":2: not JSON"),
        ([row(), "[1, 2]"], ":2: an outcome row is an object"),
        ([{"arm": "closed", "outcome": "wrong"}], ':1: "item" is missing'),
        ([{"item": "a", "outcome": "wrong"}], ':1: "arm" is missing'),
        ([{"item": "a", "arm": "closed"}], ':1: "outcome" is missing'),
        ([row(score=1.5)], r':1: "score" is 1.5; it must be from 0 to 1; write 0.015'),
        ([row(score="high")], ':1: "score" must be a number'),
        ([row(), '{"item": "b", "arm": "closed", "outcome": "wrong", "score": NaN}'], ':2: "score" must be a number'),
        ([row(content=2)], ':1: "content" is 2; it must be 0 or 1'),
        ([row(latency_s=-1)], ':1: "latency_s" is -1; it must be 0 or more'),
        ([row(input_tokens=1.5)], ':1: "input_tokens" must be a whole number'),
        ([row(item=["a"])], ':1: "item" must be a string or a number'),
        ([row(cluster="x"), row(arm="tune", cluster="y")], ":2: item 'q1' is in cluster"),
        ([""], "is empty"),
    ],
)
def test_bad_rows_name_file_line_and_value(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_outcomes(written(tmp_path, *lines))
    assert "outcomes.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, '"arms" is empty'),
        ({"closed": 3}, "expected"),
        ({"closed": {"correct": 3}}, '"n" is missing'),
        ({"closed": {"n": 0, "correct": 0}}, '"n" is 0'),
        ({"closed": {"n": 10, "correct": 11}}, "is more than the 10 items"),
        ({"closed": {"n": 10, "correct": 8, "refused": 5}}, "is more than the 10 items"),
        ({"closed": {"n": 10, "score": 50.4}}, "write 0.504"),
        ({"closed": {"n": 10}}, 'give "correct"'),
        ({"closed": {"n": 10, "correct": -1}}, "0 or more"),
        ({"closed": {"n": 10, "correct": 5, "score": 0.9}}, "give one of them"),
        ({"closed": {"n": 10.5, "correct": 5}}, "whole number"),
    ],
)
def test_bad_totals_name_arm_and_value(arms: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        OutcomeTable.from_totals({"metric": "accuracy", "arms": arms})


def test_a_missing_file_and_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_outcomes(tmp_path / "absent.jsonl")
    path = tmp_path / "binary.jsonl"
    path.write_bytes(b'{"item": 1}\n\xff\xfe')
    with pytest.raises(DataError, match=":2: not UTF-8"):
        read_outcomes(path)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no outcome rows"):
        OutcomeTable.from_rows([])


def test_variants_sort_by_number_and_unknown_arms_come_last() -> None:
    found = totals(zebra=(1, 1), few_shot__16=(1, 1), few_shot__3=(1, 1), closed=(1, 1), tune=(1, 1))
    assert found.names == ["closed", "few_shot:3", "few_shot:16", "tune", "zebra"]


def test_the_table_is_the_same_for_any_order_of_rows() -> None:
    ordered = rows(["closed", "tune"], {"CW": 4, "WC": 6, "EW": 1})
    shuffled = ordered.copy()
    random.Random(0).shuffle(shuffled)
    one, other = OutcomeTable.from_rows(ordered), OutcomeTable.from_rows(shuffled)
    assert one.items == other.items
    assert all(np.array_equal(one.arms[a].correct, other.arms[a].correct, equal_nan=True) for a in one.arms)

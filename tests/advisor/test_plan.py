"""An arm that cannot be run is absent and says what it would need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from advisor.plan import KNOWN, ON_REQUEST, Means, absent_lines, plan_arms
from core.errors import UnknownName

ALL = Means(documents=True, train_rows=200, labels=True, answer_format=True, local_base=True, gold_passages=False)


def test_every_known_arm_is_run_or_said_to_be_absent() -> None:
    for means in (ALL, replace(ALL, documents=False), replace(ALL, train_rows=0), replace(ALL, labels=False)):
        plan = plan_arms(means)
        assert sorted([*plan.arms, *(a.arm for a in plan.absent)]) == sorted(KNOWN)


def test_with_everything_at_hand_only_the_dear_arms_wait_to_be_asked_for() -> None:
    plan = plan_arms(ALL)
    assert {a.arm for a in plan.absent} == set(ON_REQUEST)
    assert plan_arms(ALL, ["tune_retrieved"]).arms == ("closed", "tune_retrieved")


def test_without_documents_no_passage_arm_is_run() -> None:
    plan = plan_arms(replace(ALL, documents=False))
    assert not {"oracle", "retrieved"} & set(plan.arms)
    assert all("--docs" in a.supply for a in plan.absent if a.arm in ("oracle", "retrieved"))


def test_gold_passages_in_the_rows_stand_in_for_documents_in_the_oracle_arm() -> None:
    plan = plan_arms(replace(ALL, documents=False, gold_passages=True))
    assert "oracle" in plan.arms
    assert "retrieved" not in plan.arms


def test_too_few_training_rows_are_counted_in_the_reason() -> None:
    plan = plan_arms(replace(ALL, train_rows=5))
    assert "few_shot:3" in plan.arms
    reasons = {a.arm: a.why for a in plan.absent}
    assert reasons["tune:lora"] == "there are only 5 training rows, it needs 10"
    assert reasons["few_shot:8"] == "there are only 5 training rows, it needs 8"


def test_a_remote_base_cannot_be_tuned_but_a_head_can() -> None:
    plan = plan_arms(replace(ALL, local_base=False))
    assert "tune:head" in plan.arms
    assert "tune:lora" not in plan.arms


def test_a_family_names_all_its_arms() -> None:
    assert plan_arms(ALL, ["tune"]).arms == ("closed", "tune:head", "tune:lora")


def test_an_unknown_arm_lists_near_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean oracle"):
        plan_arms(ALL, ["oracl"])


def test_arms_that_lack_the_same_thing_are_told_in_one_line() -> None:
    lines = absent_lines(plan_arms(replace(ALL, documents=False)).absent)
    wants = [line for line in lines if "there are no documents" in line]
    assert wants == [
        "not run: oracle, oracle_few_shot (there are no documents; supply documents (--docs PATH) or the gold passage in"
        " each eval row (`context`))",
        "not run: retrieved, tune_retrieved, tune_oracle, wrong_passage (there are no documents; supply documents"
        " (--docs PATH))",
    ]
    assert lines[-1] == "not asked for: few_shot:3_similar (--arms A,B)"


def test_the_place_of_a_context_is_told_of_only_where_it_was_asked_about() -> None:
    absent = plan_arms(ALL, ["prompt:context_last"]).absent
    assert not [line for line in absent_lines(absent) if "context_last" in line and line.startswith("not run")]
    assert [line for line in absent_lines(absent, ["prompt:context_last"]) if "context_last (the inputs bring" in line]

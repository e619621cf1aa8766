"""Asking in steps: what is not asked could hardly have changed the verdict, and never decides by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from advisor.looks import Progress, Step, schedule, tally
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.rule import DecisionSettings
from advisor.verdict import Verdict, decide
from benchmarks.simulation import ACTIONS, world
from benchmarks.simulation import sample as draw
from benchmarks.trials import stepped
from tests.advisor.tables import rows


def replay(
    arms: Sequence[str], blocks: Mapping[str, int], dear: Sequence[str] = (), delta: float = 0.05
) -> tuple[Verdict, Progress, list[Step]]:
    """The verdict of asking the items of `blocks` in a shuffled order, step by step."""
    every = rows(arms, blocks)
    items = sorted({row.item for row in every})
    order = [items[i] for i in np.random.default_rng(5).permutation(len(items))]
    cells = {(row.item, row.arm): row for row in every}
    settings = DecisionSettings(delta=delta)
    progress = Progress(len(items), tuple(arms))
    steps = schedule(progress, lambda: settings, dear)
    asked: dict[str, int] = {}
    made = [next(steps)]
    while True:
        asked |= {arm: max(made[-1].items, asked.get(arm, 0)) for arm in made[-1].arms}
        seen: list[OutcomeRow] = [cells[item, arm] for arm, count in asked.items() for item in order[:count]]
        table = OutcomeTable.from_rows(seen)
        try:
            made.append(steps.send(table))
        except StopIteration:
            assert progress.asked == asked
            settings = DecisionSettings(delta=delta, alpha=progress.alpha, stepwise=True)
            return decide(table, settings), progress, made


ARMS = ["closed", "prompt", "few_shot:3", "oracle", "retrieved", "tune"]


@pytest.mark.parametrize(
    ("arms", "blocks", "delta", "route", "at_most"),
    [
        (["closed", "oracle", "retrieved"], {"WCC": 10, "WCW": 5, "WWW": 45}, 0.05, "rag", 0.9),
        (
            ["closed", "prompt", "few_shot:3", "few_shot:8", "tune:head", "tune:lora"],
            {"WWWWCC": 30, "WWWWCW": 50, "WWWCCW": 4, "WWCWCW": 1, "WWWWWW": 15},
            *(0.05, "tune", 1 / 3),
        ),
        (["closed", "prompt", "few_shot:3", "few_shot:8", "tune:lora"], {"WWWWC": 4, "WWWWW": 196}, 0.1, "none", 1 / 3),
    ],
    ids=["xquad", "banking77", "gsm8k"],
)
def test_the_shipped_examples_keep_their_verdicts_for_a_part_of_the_calls(
    arms: list[str], blocks: dict[str, int], delta: float, route: str, at_most: float
) -> None:
    """Right answers of each arm about as the starter model's full grid gave them."""
    verdict, progress, _ = replay(arms, blocks, dear=["tune:lora"], delta=delta)
    assert verdict.route == route
    assert progress.calls <= at_most * progress.full_calls


def test_a_clear_gap_in_knowledge_stops_with_a_part_of_the_calls() -> None:
    verdict, progress, _ = replay(ARMS, {"WWWCCW": 200, "CCCCCC": 60, "WWWWWW": 40})
    assert (verdict.route, verdict.ready, progress.stopped_by) == ("rag", True, "verdict")
    assert progress.calls < progress.full_calls / 3
    assert progress.asked["tune"] < progress.asked["closed"]


def test_the_base_goes_alone_while_it_meets_the_target() -> None:
    verdict, progress, steps = replay(ARMS, {"CCCCCC": 297, "WWWWWW": 3})
    assert verdict.route == "base"
    assert {arm for step in steps for arm in step.arms} == {"closed"}
    assert progress.calls < 100


def test_a_control_that_nothing_mends_is_still_none() -> None:
    verdict, progress, _ = replay(["closed", "few_shot:3", "oracle", "tune"], {"CCCC": 20, "WWWW": 380})
    assert verdict.route == "none"
    assert progress.calls < progress.full_calls


def test_our_retriever_waits_until_gold_passages_promise_something() -> None:
    _, progress, steps = replay(ARMS, {"CCCCCC": 30, "WWWWWC": 40, "WWWWWW": 30})
    assert "retrieved" not in steps[0].arms
    assert progress.asked.get("retrieved", 0) < progress.asked["tune"]


def test_an_arm_that_must_be_trained_first_waits_for_the_second_look() -> None:
    _, _, steps = replay(ARMS, {"WWWWWC": 40, "CCCCCC": 30, "WWWWWW": 30}, dear=["tune"])
    second = next(i for i, step in enumerate(steps) if step.items > steps[0].items)
    assert all("tune" not in step.arms for step in steps[:second])
    assert any("tune" in step.arms for step in steps)


def test_every_arm_that_stopped_early_says_why() -> None:
    _, progress, _ = replay(ARMS, {"WWWCCW": 200, "CCCCCC": 60, "WWWWWW": 40})
    found = tally(progress)
    short = {arm for arm in ARMS if progress.asked.get(arm, 0) < progress.asked["closed"]}
    assert short == {entry["arm"] for entry in found["dropped"]}
    assert all(entry["why"] for entry in found["dropped"])
    assert found["saved_calls"] == found["full_calls"] - found["calls"]
    assert [look["items"] for look in found["looks"]] == sorted(look["items"] for look in found["looks"])


def test_a_retriever_near_the_line_goes_on_until_it_is_known_whether_it_is_ready() -> None:
    arms = ["closed", "oracle", "retrieved"]
    verdict, progress, _ = replay(arms, {"WCC": 60, "WCW": 30, "WWW": 30})
    assert (verdict.route, verdict.ready) == ("rag", False)
    assert progress.asked["retrieved"] == progress.asked["closed"] > 60
    clear, quick, _ = replay(arms, {"WCC": 95, "WCW": 5, "WWW": 20})
    assert (clear.route, clear.ready) == ("rag", True)
    assert quick.calls < progress.calls


def test_an_arm_that_is_no_remedy_is_asked_a_third_of_the_items() -> None:
    arms = ["closed", "oracle", "tune", "wrong_passage"]
    _, progress, _ = replay(arms, {"WWWW": 150, "CCCC": 50})
    assert progress.asked["wrong_passage"] == pytest.approx(progress.asked["closed"] / 3, abs=1)
    assert "no remedy" in progress.dropped["wrong_passage"]["why"]


def test_the_others_wait_while_the_likeliest_remedy_is_asked() -> None:
    _, progress, _ = replay(ARMS, {"WWWCCW": 200, "WWWWWW": 100})
    assert progress.asked["oracle"] > 12
    assert all(progress.asked[arm] == 12 for arm in ("prompt", "few_shot:3", "tune"))


def test_a_variant_that_is_well_behind_another_is_dropped_alone() -> None:
    arms = ["closed", "few_shot:3", "few_shot:8", "oracle"]
    verdict, progress, _ = replay(arms, {"WWCW": 60, "WCCW": 20, "CCCC": 60, "WWWW": 160})
    assert (verdict.route, verdict.route_arm) == ("few-shot", "few_shot:8")
    assert progress.asked["few_shot:3"] < progress.asked["few_shot:8"]
    assert progress.dropped["few_shot:3"]["why"] == "another variant is ahead of it"


def test_an_adapter_level_with_a_head_is_not_asked_to_the_end() -> None:
    verdict, progress, _ = replay(["closed", "tune:head", "tune:lora"], {"WCC": 30, "CCC": 60, "WWW": 210})
    assert (verdict.route, verdict.method) == ("tune", "head")
    assert progress.asked["tune:lora"] < progress.asked["tune:head"]


def test_few_items_are_asked_at_once() -> None:
    _, progress, steps = replay(["closed", "oracle"], {"WC": 10, "CC": 10})
    assert steps[0].items == 20
    assert progress.alpha == pytest.approx(0.05)


def test_an_arm_of_failures_neither_stops_a_run_nor_decides_it() -> None:
    verdict, _, _ = replay(["closed", "oracle", "tune"], {"EEE": 60})
    assert verdict.route == "undecided"
    verdict, _, _ = replay(["closed", "oracle", "tune"], {"WCE": 40, "CCE": 30})
    assert verdict.route == "rag"


def test_looking_often_finds_no_more_effects_where_there_are_none() -> None:
    routes = []
    for seed in range(100):
        rng = np.random.default_rng((31, seed))
        routes.append(stepped(draw(world("null", rng), 100, rng, 1), rng).route)
    assert np.mean([route in ACTIONS for route in routes]) <= 0.09  # 5 %, and two standard errors


@pytest.mark.parametrize("kind", ["rag", "tune", "few-shot", "prompt", "base"])
def test_a_large_eval_set_gets_the_route_of_the_full_grid_for_a_part_of_its_calls(kind: str) -> None:
    rng = np.random.default_rng(3)
    table = draw(world(kind, rng), 1500, rng, 1)
    found = stepped(table, rng)
    assert found.route == decide(table).route
    assert found.calls < 1 / 3

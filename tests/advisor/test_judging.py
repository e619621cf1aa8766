"""A judge is measured on labelled answers first, and its scores count only where it agrees with people."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from advisor.answers import AnswerCache
from advisor.judging import Judging, open_judging
from advisor.labelled import Labelled, agreement, lacking, read_labelled
from advisor.scorers import parse_scorer
from advisor.scorers.base import Scorer
from advisor.scorers.judge import Case, Verdict, read_vote, verdict_of, vote_request
from core.engines.scripted import ScriptedEngine
from core.errors import DataError, EngineError, EngineTimeout, EngineUnavailable
from core.settings import Judge
from core.types import Request
from tests.advisor.rows import row

FALLBACK = parse_scorer("contains")


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ("CORRECT", True),
        ("correct.", True),
        ("**WRONG**", False),
        ("INCORRECT", False),
        ("The given answer is not correct.", False),
        ("It isn't fully correct", False),
        ("The answer says Paris, the reference Rome.\n\nWRONG", False),
        ("<think>It looks wrong at first, but</think>\nCORRECT", True),
        ("<think>It looks correct, so I", None),
        ("CORRECT or WRONG", None),
        ("As a language model I cannot grade this", None),
        ("", None),
    ],
)
def test_what_a_reply_says(reply: str, vote: bool | None) -> None:
    assert read_vote(reply) is vote


def test_two_votes_that_agree_are_a_verdict_and_a_tie_is_none() -> None:
    assert verdict_of([True, True], ["", ""]).right is True
    assert verdict_of([True, False, False, False], [""] * 4).right is False
    assert verdict_of([True, False, True, False], [""] * 4).right is None
    assert verdict_of([None, None, True, None], [""] * 4).right is True
    assert verdict_of([None] * 4, [""] * 4).right is None


def test_odd_votes_swap_reference_and_answer_and_repeats_are_not_greedy() -> None:
    case = Case("Capital of France?", ("Paris",), "It is Paris")
    first, second, third = (vote_request(case, vote, "", 64, 0) for vote in range(3))
    assert first.messages[1].content.index("<reference>") < first.messages[1].content.index("<given_answer>")
    assert second.messages[1].content.index("<reference>") > second.messages[1].content.index("<given_answer>")
    assert third.messages == first.messages
    assert (first.sampling.temperature, third.sampling.temperature > 0) == (0.0, True)


def labelled(right: int, wrong: int) -> list[Labelled]:
    made = [Labelled(Case(f"q{i}", ("yes",), f"yes, item {i}"), True) for i in range(right)]
    return made + [Labelled(Case(f"w{i}", ("yes",), f"no, item {i}"), False) for i in range(wrong)]


def honest(request: Request) -> str:
    return "CORRECT" if "<given_answer>\nyes" in request.messages[-1].content else "WRONG"


def judging(
    script: Callable[[Request], Any], items: list[Labelled], tmp_path: Path, **settings: Any
) -> tuple[Judging, Scorer, ScriptedEngine]:
    engine = ScriptedEngine(script, name="j")
    with ExitStack() as held:
        found, scorer = open_judging(
            Judge(model="j", **settings),
            items,
            FALLBACK,
            lambda _: engine,
            held,
            AnswerCache(tmp_path / "answers.jsonl"),
            0,
        )
    return found, scorer, engine


def test_a_judge_that_agrees_with_people_scores(tmp_path: Path) -> None:
    found, scorer, engine = judging(honest, labelled(15, 15), tmp_path)
    assert found.trusted
    assert found.agreement is not None and found.agreement.kappa.value == 1
    assert len(engine.requests) == 30 * 4
    engine.requests.clear()
    pairs = [("yes, it is", row("a", "yes")), ("maybe", row("b", "yes")), ("", row("c", "yes"))]
    assert scorer.prepare is not None
    scorer.prepare(pairs)
    # Two votes that agree are enough, and an empty answer needs no judge.
    assert len(engine.requests) == 2 * 2
    assert [scorer.score(answer, item).content for answer, item in pairs] == [True, False, False]
    assert len(engine.requests) == 2 * 2
    assert [notice.code for notice in found.notices(scorer)] == ["judge"]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (lambda _: "CORRECT", "kappa 0.00"),
        (lambda _: "I like trains.", "gives no verdict on 30"),
        (lambda r: "CORRECT" if r.messages[-1].content.index("<ref") < 40 else "WRONG", "turns with the order on 30"),
    ],
    ids=["says yes to all", "junk", "position alone"],
)
def test_a_judge_that_does_not_agree_decides_nothing(
    script: Callable[[Request], Any], says: str, tmp_path: Path
) -> None:
    found, scorer, engine = judging(script, labelled(15, 15), tmp_path)
    assert not found.trusted
    assert scorer is FALLBACK
    assert says in found.why
    assert len(engine.requests) == 30 * 4
    (notice,) = found.notices(scorer)
    assert notice.code == "judge_not_trusted"
    assert "Scored by `contains` instead" in notice.text
    json.dumps(found.document(), allow_nan=False)


@pytest.mark.parametrize(
    ("items", "says"),
    [([], "no labelled answers"), (labelled(9, 9), "18 labelled answers are too few"), (labelled(30, 1), "30 right")],
)
def test_without_labels_to_measure_on_the_judge_is_not_even_asked(
    items: list[Labelled], says: str, tmp_path: Path
) -> None:
    found, scorer, engine = judging(honest, items, tmp_path)
    assert (found.trusted, scorer, engine.requests) == (False, FALLBACK, [])
    assert says in found.why


def test_junk_on_an_item_is_no_zero(tmp_path: Path) -> None:
    def sometimes(request: Request) -> str:
        return "I like trains." if "strange" in request.messages[-1].content else honest(request)

    found, scorer, _ = judging(sometimes, labelled(15, 15), tmp_path)
    with pytest.raises(EngineError, match="the judge gave no verdict: it replied 'I like trains.'"):
        scorer.score("strange", row("q", "yes"))
    assert [notice.code for notice in found.notices(scorer)] == ["judge", "judge_no_verdict"]


def test_a_judge_that_cannot_be_measured_stops_the_run_and_is_not_called_bad(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="failed on 30 of 30 labelled answers \\(slow\\); run the same command"):
        judging(lambda _: EngineTimeout("slow"), labelled(15, 15), tmp_path)


def test_a_few_failed_calls_are_left_out_of_the_agreement(tmp_path: Path) -> None:
    def sometimes(request: Request) -> str | EngineTimeout:
        return EngineTimeout("slow") if "item 3\n" in request.messages[-1].content else honest(request)

    found, _, _ = judging(sometimes, labelled(15, 15), tmp_path)
    assert found.agreement is not None
    assert (found.agreement.rate.n, found.agreement.rate.value) == (28, 1.0)


def test_votes_are_cached_so_a_stopped_run_does_not_ask_twice(tmp_path: Path) -> None:
    judging(honest, labelled(15, 15), tmp_path)
    _, _, engine = judging(honest, labelled(15, 15), tmp_path)
    assert engine.requests == []


def test_kappa_is_cohens() -> None:
    rng = np.random.default_rng(3)
    human = rng.random(200) < 0.6
    judge = np.where(rng.random(200) < 0.85, human, ~human)
    items = [Labelled(Case(f"q{i}", ("x",), "y"), bool(said)) for i, said in enumerate(human)]
    found = agreement(items, [Verdict(bool(said), (), ()) for said in judge])
    assert found.kappa.value == pytest.approx(cohen_kappa_score(human, judge))
    table = [[int(((human == a) & (judge == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    theirs = cohens_kappa(np.array(table))
    assert (found.kappa.low, found.kappa.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.02)


def test_no_verdict_counts_against_the_judge() -> None:
    verdicts = [Verdict(True, (), ())] * 10 + [Verdict(None, (), ())] * 10
    found = agreement(labelled(10, 10), verdicts)
    assert (found.rate.value, found.unjudged, found.of_wrong.value) == (0.5, 10, 0.0)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_outcome_rows_with_labels_written_in_will_do(tmp_path: Path) -> None:
    path = write(
        tmp_path / "labelled.jsonl",
        [
            {"item": "a", "arm": "closed", "outcome": "wrong", "answer": "Roma", "label": "correct"},
            {"item": "a", "arm": "prompt", "outcome": "wrong", "answer": "Oslo", "label": 0},
            {"item": "a", "arm": "tune", "outcome": "wrong", "answer": "Bonn"},
            {"question": "Capital of Peru?", "reference": "Lima", "answer": "Lima, I think", "label": True},
        ],
    )
    found = read_labelled(path, [row("Capital of Italy?", "Rome", id="a")])
    assert found == [
        Labelled(Case("Capital of Italy?", ("Rome",), "Roma"), True),
        Labelled(Case("Capital of Italy?", ("Rome",), "Oslo"), False),
        Labelled(Case("Capital of Peru?", ("Lima",), "Lima, I think"), True),
    ]
    assert lacking(found)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"item": "a", "answer": "x"}, "no row has a label"),
        ({"item": "a", "answer": "x", "label": "meh"}, ":1: the label 'meh' is none"),
        ({"item": "a", "label": "correct"}, ":1: there is no `answer`"),
        (
            {"item": "zz", "answer": "x", "label": 1},
            ":1: there is no `question` or no `reference`; no eval row has the id",
        ),
    ],
)
def test_labelled_rows_that_cannot_be_used_are_named(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labelled.jsonl") as caught:
        read_labelled(write(tmp_path / "labelled.jsonl", [fields]), [row("q", "y", id="a")])
    assert says in str(caught.value)

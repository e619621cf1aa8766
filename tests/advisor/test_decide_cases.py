"""Outcome tables of every sort, with the verdict a careful statistician would give: `decide` as other people call it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cli import main
from tests.advisor.tables import rows

Rows = list[dict[str, Any]]


def blocks(arms: Sequence[str], counts: Mapping[str, int], **more: Any) -> Rows:
    """As tables.rows, in the words of the file; `more` is added to every row."""
    return [{"item": r.item, "arm": r.arm, "outcome": r.outcome, **more} for r in rows(arms, counts)]


def totals(**arms: tuple[int, int]) -> dict[str, Any]:
    entries = {name.replace("__", ":"): {"n": n, "correct": correct} for name, (n, correct) in arms.items()}
    return {"metric": "accuracy", "arms": entries}


def graded(n: int, **means: float) -> Rows:
    """Scores around each mean, the same hardness in each arm."""
    return [
        {"item": i, "arm": arm, "outcome": None, "score": min(1.0, max(0.0, mean + 0.02 * (i % 11 - 5)))}
        for i in range(n)
        for arm, mean in means.items()
    ]


def clustered(arms: Sequence[str], counts: Mapping[str, int], size: int) -> Rows:
    """Neighbouring items share a document."""
    return [{**row, "cluster": f"doc{int(row['item'][1:]) // size}"} for row in blocks(arms, counts)]


def shaped(counts: Mapping[str, Sequence[tuple[int, int, int]]]) -> Rows:
    """`{"closed": [(60, 1, 0)]}`: 60 items with content 1 and form 0, in order."""
    out = []
    for arm, runs in counts.items():
        item = 0
        for n, content, form in runs:
            for _ in range(n):
                item += 1
                right = "correct" if content and form else "wrong"
                out.append({"item": item, "arm": arm, "outcome": right, "content": content, "form": form})
    return out


def slow(rows_: Rows, **latency: float) -> Rows:
    return [{**row, "latency_s": latency[row["arm"]]} for row in rows_]


@dataclass(frozen=True)
class Case:
    says: str
    table: Any
    route: str
    ready: bool | None = None
    method: str | None = None
    arm: str | None = None
    options: tuple[str, ...] = ()
    warned: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    not_warned: frozenset[str] = field(default_factory=frozenset)


def codes(*names: str) -> frozenset[str]:
    return frozenset(names)


CASES = [
    # Knowledge.
    Case(
        "knowledge, our retriever realises it",
        blocks(["closed", "oracle", "retrieved"], {"WCC": 40, "WCW": 6, "CCC": 30, "WWW": 24}),
        *("rag", True),
        arm="retrieved",
    ),
    Case(
        "knowledge, our retriever realises a third",
        blocks(["closed", "oracle", "retrieved"], {"WCC": 15, "WCW": 30, "CCC": 30, "WWW": 25}),
        *("rag", False),
        arm="retrieved",
        warned=codes("retrieval_not_ready"),
        needs=codes("documents"),
    ),
    Case(
        "knowledge, our retriever finds nothing",
        blocks(["closed", "oracle", "retrieved"], {"WCW": 45, "CCC": 30, "WWW": 25}),
        *("rag", False),
        warned=codes("retrieval_not_ready"),
        arm="retrieved",
    ),
    Case(
        "knowledge, our retriever not measured",
        blocks(["closed", "oracle"], {"WC": 45, "CC": 30, "WW": 25}),
        "rag",
        needs=codes("arm:retrieved"),
    ),
    Case(
        "our retriever gains and there is no oracle",
        blocks(["closed", "retrieved"], {"WC": 40, "CC": 30, "CW": 2, "WW": 28}),
        *("rag", True),
        arm="retrieved",
    ),
    Case(
        "our retriever gains nothing and there is no oracle: that settles nothing",
        blocks(["closed", "retrieved"], {"CC": 60, "WC": 1, "CW": 1, "WW": 138}),
        "undecided",
        needs=codes("arm:oracle"),
    ),
    Case("20 items are enough for a textbook gap", blocks(["closed", "oracle"], {"WC": 15, "CC": 1, "WW": 4}), "rag"),
    Case(
        "four items that all gain are not", blocks(["closed", "oracle"], {"WC": 4}), "undecided", needs=codes("items")
    ),
    Case(
        "content is there in the wrong shape: knowledge all the same",
        shaped({"closed": [(70, 0, 0), (30, 1, 1)], "oracle": [(50, 1, 0), (20, 0, 0), (30, 1, 1)]}),
        "rag",
    ),
    Case(
        "gold passages spoil the shape of what was right: still a gap in knowledge",
        shaped({"closed": [(60, 0, 0), (40, 1, 1)], "oracle": [(50, 1, 0), (10, 0, 0), (40, 1, 0)]}),
        "rag",
    ),
    Case(
        "a retriever ready by content, whatever the shape",
        shaped(
            {
                "closed": [(70, 0, 0), (30, 1, 1)],
                "oracle": [(50, 1, 0), (20, 0, 0), (30, 1, 1)],
                "retrieved": [(45, 1, 0), (25, 0, 0), (30, 1, 1)],
            }
        ),
        *("rag", True),
        arm="retrieved",
    ),
    Case(
        "a retriever that finds all and spoils the shape: not the documents are at fault",
        shaped(
            {
                "closed": [(60, 0, 0), (40, 1, 1)],
                "oracle": [(50, 1, 0), (10, 0, 0), (40, 1, 1)],
                "retrieved": [(48, 1, 0), (12, 0, 0), (30, 1, 0), (10, 1, 1)],
            }
        ),
        *("rag", False),
        warned=codes("harm", "retrieval_not_ready", "form_gap"),
        needs=codes("arm:retrieved"),
    ),
    # Behaviour.
    Case(
        "an adapter gains",
        blocks(["closed", "few_shot:8", "tune"], {"WWC": 30, "WCC": 5, "CCC": 35, "WWW": 30}),
        "tune",
        method="lora",
        arm="tune",
    ),
    Case(
        "a head gains",
        blocks(["closed", "few_shot:3", "tune:head"], {"WWC": 40, "CCC": 30, "WWW": 30}),
        "tune",
        method="head",
        arm="tune:head",
    ),
    Case(
        "head and adapter level: the cheaper one",
        blocks(["closed", "tune:lora", "tune:head"], {"WCC": 40, "WCW": 2, "CCC": 30, "WWW": 30}),
        "tune",
        method="head",
        arm="tune:head",
    ),
    Case(
        "tuning adds nothing to demonstrations",
        blocks(["closed", "few_shot:8", "tune"], {"WCC": 40, "CCC": 30, "WWC": 2, "WCW": 1, "WWW": 27}),
        "few-shot",
        arm="few_shot:8",
    ),
    Case(
        "a prompt does what demonstrations do",
        blocks(["closed", "prompt", "few_shot:8"], {"WCC": 30, "CCC": 40, "WWC": 2, "WWW": 28}),
        "prompt",
        arm="prompt",
    ),
    Case(
        "demonstrations gain over a prompt that gains",
        blocks(["closed", "prompt", "few_shot:8"], {"WCC": 20, "WWC": 25, "CCC": 30, "WWW": 25}),
        "few-shot",
        arm="few_shot:8",
    ),
    Case(
        "the order of the prompt is all",
        blocks(["closed", "prompt:context_first", "prompt:context_last"], {"WCW": 50, "CCC": 25, "WWW": 75}),
        "prompt",
        arm="prompt:context_first",
    ),
    Case(
        "a gain under delta is none, however sure",
        totals(closed=(20000, 8000), oracle=(20000, 8100), tune=(20000, 8600)),
        "none",
    ),
    Case(
        "the same gain where two points are worth money",
        totals(closed=(20000, 8000), oracle=(20000, 8100), tune=(20000, 8600)),
        "tune",
        method="lora",
        arm="tune",
        options=("--delta", "0.02"),
    ),
    # Both.
    Case(
        "both beat each",
        blocks(
            ["closed", "retrieved", "tune", "tune_retrieved"],
            {"CCCC": 20, "WCWC": 20, "WWCC": 20, "WWWC": 15, "WWWW": 25},
        ),
        *("rag+tune", True),
        method="lora",
        arm="tune_retrieved",
    ),
    Case(
        "form and knowledge hide each other",
        blocks(["closed", "retrieved", "tune", "tune_retrieved"], {"CCCC": 10, "WWWC": 60, "WWWW": 30}),
        *("rag+tune", True),
        method="lora",
        arm="tune_retrieved",
    ),
    Case(
        "both gain with our own passages, and gold ones would give more",
        blocks(
            ["closed", "oracle", "retrieved", "tune", "tune_retrieved"],
            {"CCCCC": 20, "WCCWC": 10, "WCWWC": 40, "WWWWW": 30},
        ),
        *("rag+tune", False),
        method="lora",
        arm="tune_retrieved",
        warned=codes("retrieval_not_ready"),
        needs=codes("documents"),
    ),
    Case(
        "both equal retrieval: retrieval",
        blocks(["closed", "retrieved", "tune", "tune_retrieved"], {"CCCC": 20, "WCWC": 40, "WWWC": 1, "WWWW": 39}),
        *("rag", True),
        arm="retrieved",
    ),
    Case(
        "gains do not add up by assumption",
        blocks(["closed", "retrieved", "tune"], {"CCC": 20, "WCW": 35, "WWC": 25, "WWW": 20}),
        *("rag", True),
        arm="retrieved",
        needs=codes("arm:tune_retrieved"),
    ),
    Case(
        "both with gold passages alone: what ships is not measured",
        blocks(
            ["closed", "oracle", "tune", "tune_oracle"], {"CCCC": 30, "WCWC": 15, "WWCC": 15, "WWWC": 20, "WWWW": 20}
        ),
        "rag+tune",
        method="lora",
        needs=codes("arm:retrieved"),
    ),
    Case(
        "tuning with passages gains, and neither was measured alone",
        blocks(["closed", "tune_retrieved"], {"CC": 30, "WC": 60, "WW": 10}),
        "undecided",
        needs=codes("arm:retrieved", "arm:tune"),
    ),
    # Neither.
    Case(
        "the base is good enough",
        blocks(["closed", "tune"], {"CC": 94, "CW": 1, "WC": 1, "WW": 4}),
        "base",
        arm="closed",
    ),
    Case("the base alone, good enough", blocks(["closed"], {"C": 480, "W": 20}), "base", arm="closed"),
    Case("92 of 100 meet a target of 90 %", blocks(["closed", "oracle"], {"CC": 92, "WW": 8}), "base", arm="closed"),
    Case("8 of 8 are no evidence", blocks(["closed", "oracle", "tune"], {"CCC": 8}), "undecided", needs=codes("items")),
    Case(
        "nothing helps",
        blocks(["closed", "few_shot:8", "oracle", "tune"], {"CCCC": 60, "WWWW": 340}),
        "none",
    ),
    Case(
        "nothing helps, and nobody looked at knowledge",
        blocks(["closed", "few_shot:8"], {"CC": 60, "WW": 340}),
        "undecided",
        needs=codes("arm:oracle", "training_rows"),
    ),
    Case(
        "whatever is tried loses: nothing helps, and the losers are named",
        blocks(["closed", "few_shot:8", "oracle", "tune"], {"CCCC": 120, "CWWW": 40, "WWWW": 240}),
        "none",
        warned=codes("harm"),
    ),
    Case(
        "nothing helps by what 30 items show: that is not known",
        blocks(["closed", "oracle", "tune"], {"CCC": 5, "WWW": 25}),
        "undecided",
        needs=codes("items"),
    ),
    Case("the base alone and bad", blocks(["closed"], {"C": 40, "W": 60}), "undecided", needs=codes("arm:oracle")),
    Case(
        "all that was tried is harmful, and may gain for all we know: something milder is asked for",
        blocks(["closed", "oracle", "tune"], {"CCC": 20, "CCW": 25, "CWC": 25, "WCW": 30, "WWC": 31, "WWW": 19}),
        "undecided",
        warned=codes("harm"),
        needs=codes("arm:tune"),
    ),
    # Evidence that is not enough.
    Case(
        "ten points at p = 0.09",
        blocks(["closed", "tune"], {"WC": 17, "CW": 7, "CC": 40, "WW": 36}),
        "undecided",
        needs=codes("items"),
    ),
    Case(
        "the same gain spread over 6 documents",
        clustered(["closed", "tune"], {"WC": 20, "CC": 40, "WW": 40}, 20),
        "undecided",
    ),
    Case(
        "the same gain, documents of two items",
        clustered(["closed", "tune"], {"WC": 20, "CC": 40, "WW": 40}, 2),
        "tune",
        method="lora",
        arm="tune",
    ),
    Case(
        "eight prompts, one of them lucky",
        blocks(
            ["closed", *(f"prompt:{i}" for i in range(8))], {"WCWWWWWWW": 7, "CWCCCCCCC": 1, "C" * 9: 40, "W" * 9: 52}
        ),
        "undecided",
    ),
    # Harm.
    Case(
        "an arm that loses",
        blocks(["closed", "oracle", "tune"], {"CCW": 30, "CCC": 20, "WCW": 40, "WWW": 10}),
        "rag",
        warned=codes("harm"),
    ),
    Case(
        "an arm that breaks some and mends twice as many: the remedy, but look at what it breaks",
        blocks(["closed", "prompt"], {"CC": 60, "CW": 40, "WC": 90, "WW": 10}),
        "prompt",
        arm="prompt",
        warned=codes("breaks_items"),
        not_warned=codes("harm"),
    ),
    Case(
        "an arm that mends and breaks alike",
        blocks(["closed", "tune"], {"CC": 60, "CW": 40, "WC": 58, "WW": 42}),
        "undecided",
        warned=codes("harm"),
    ),
    Case(
        "refusals that become confident errors",
        blocks(["closed", "tune"], {"RW": 45, "RC": 15, "CC": 40}),
        "undecided",
        warned=codes("harm"),
    ),
    Case(
        "a strong remedy may break a few",
        blocks(["closed", "tune"], {"WC": 60, "CW": 4, "CC": 20, "WW": 16}),
        "tune",
        method="lora",
        arm="tune",
        not_warned=codes("harm"),
    ),
    Case(
        "a harmful retriever is not what ships",
        blocks(["closed", "oracle", "retrieved"], {"WCW": 40, "CCW": 25, "CCC": 15, "WWW": 20}),
        *("rag", False),
        warned=codes("harm", "retrieval_not_ready"),
    ),
    # Constraints.
    Case(
        "must cite: retrieval, though tuning scores more",
        blocks(["closed", "retrieved", "tune"], {"CCC": 30, "WCC": 20, "WWC": 30, "WWW": 20}),
        *("rag", True),
        arm="retrieved",
        options=("--constraint", "must_cite"),
    ),
    Case(
        "deletion on demand, and nothing of retrieval was measured",
        blocks(["closed", "tune"], {"CC": 30, "WC": 40, "WW": 30}),
        "rag",
        options=("--constraint", "deletion"),
        needs=codes("documents", "arm:retrieved"),
    ),
    Case(
        "must cite, and both beat retrieval",
        blocks(["closed", "retrieved", "tune", "tune_retrieved"], {"CCCC": 20, "WCWC": 20, "WWWC": 40, "WWWW": 20}),
        *("rag+tune", True),
        method="lora",
        arm="tune_retrieved",
        options=("--constraint", "per_user_rights"),
    ),
    Case(
        "must cite within 500 ms: our retriever takes 900, a tuned model with passages 300",
        slow(
            blocks(["closed", "retrieved", "tune_retrieved"], {"CCC": 30, "WCC": 20, "WWC": 30, "WWW": 20}),
            closed=0.1,
            retrieved=0.9,
            tune_retrieved=0.3,
        ),
        *("rag+tune", True),
        method="lora",
        arm="tune_retrieved",
        options=("--constraint", "must_cite", "--constraint", "latency_ms=500"),
        warned=codes("constraint"),
        not_warned=codes("constraints_contradict"),
        needs=codes("arm:tune"),
    ),
    Case(
        "fresh facts within 500 ms, from a retriever that takes 900",
        slow(
            blocks(["closed", "retrieved", "tune"], {"CCC": 30, "WCW": 40, "WWW": 30}),
            closed=0.1,
            retrieved=0.9,
            tune=0.1,
        ),
        "undecided",
        options=("--constraint", "freshness", "--constraint", "latency_ms=500"),
        warned=codes("constraint", "constraints_contradict"),
        needs=codes("limits"),
    ),
    Case(
        "too slow, so the next best",
        slow(
            blocks(["closed", "retrieved", "tune"], {"CCC": 30, "WCC": 30, "WCW": 20, "WWW": 20}),
            closed=0.1,
            retrieved=0.9,
            tune=0.1,
        ),
        "tune",
        method="lora",
        arm="tune",
        options=("--constraint", "latency_ms=500"),
        warned=codes("constraint"),
    ),
    Case(
        "nothing is fast enough, and nothing helps either: the limits come first",
        slow(blocks(["closed", "oracle", "tune"], {"CCC": 60, "WWW": 340}), closed=2.0, oracle=2.0, tune=2.0),
        "undecided",
        options=("--constraint", "latency_ms=500"),
        warned=codes("constraints_contradict"),
        needs=codes("limits"),
    ),
    Case(
        "nothing is fast enough, not even the base",
        slow(blocks(["closed", "tune"], {"CC": 96, "WC": 4}), closed=2.0, tune=2.0),
        "undecided",
        options=("--constraint", "latency_ms=500"),
        warned=codes("constraints_contradict"),
        needs=codes("limits"),
    ),
    Case(
        "too slow and better by far: the next best, and the limit is named as what keeps it back",
        slow(
            blocks(["closed", "oracle", "retrieved", "tune"], {"CCCC": 40, "WCCC": 20, "WCCW": 30, "WWWW": 10}),
            closed=0.1,
            oracle=0.9,
            retrieved=0.9,
            tune=0.1,
        ),
        "tune",
        method="lora",
        arm="tune",
        options=("--constraint", "latency_ms=500"),
        warned=codes("constraint"),
        needs=codes("limits"),
    ),
    Case(
        "too dear by its tokens",
        [
            {**row, "input_tokens": 4000 if row["arm"] == "retrieved" else 100, "output_tokens": 10}
            for row in blocks(["closed", "retrieved"], {"CC": 30, "WC": 40, "WW": 30})
        ],
        "undecided",
        options=("--constraint", "usd_per_1k=1", "--price", "1:2"),
        warned=codes("constraint"),
    ),
    Case(
        "a slow oracle is no matter",
        slow(
            blocks(["closed", "oracle", "retrieved"], {"CCC": 30, "WCC": 40, "WWW": 30}),
            closed=0.1,
            oracle=3.0,
            retrieved=0.2,
        ),
        *("rag", True),
        arm="retrieved",
        options=("--constraint", "latency_ms=500"),
    ),
    # Ties by cost.
    Case(
        "retrieval and tuning within delta: the cheaper one",
        [
            {**row, "input_tokens": 900 if row["arm"] == "retrieved" else 50, "output_tokens": 10}
            for row in blocks(["closed", "retrieved", "tune"], {"CCC": 20, "WCC": 40, "WCW": 3, "WWW": 37})
        ],
        "tune",
        method="lora",
        arm="tune",
        options=("--price", "1:2"),
    ),
    Case(
        "the same without prices: the larger",
        blocks(["closed", "retrieved", "tune"], {"CCC": 20, "WCC": 40, "WCW": 3, "WWW": 37}),
        *("rag", True),
        arm="retrieved",
    ),
    # Totals only.
    Case("totals: a large gap", totals(closed=(400, 120), oracle=(400, 300)), "rag", warned=codes("unpaired")),
    Case("totals: 3 of 3 against none of 3 are not shown", totals(closed=(3, 0), oracle=(3, 3)), "undecided"),
    Case("totals: 10 points on 100 items are not shown", totals(closed=(100, 40), tune=(100, 50)), "undecided"),
    Case(
        "totals: arms of different sizes", totals(closed=(400, 100), tune=(150, 90)), "tune", method="lora", arm="tune"
    ),
    Case(
        "totals: the best of five prompts pays for the choice",
        totals(closed=(150, 60), **{f"prompt__{i}": (150, 76 if i == 2 else 62) for i in range(5)}),
        "undecided",
    ),
    # Graded.
    Case("graded: knowledge", graded(80, closed=0.3, oracle=0.6, retrieved=0.55), *("rag", True), arm="retrieved"),
    Case("graded: nothing", graded(200, closed=0.3, oracle=0.31, tune=0.3), "none"),
    Case("graded: a head", graded(60, closed=0.3, **{"tune:head": 0.5}), "tune", method="head", arm="tune:head"),
    # Holes in the table.
    Case(
        "failed calls are no wrong answers",
        blocks(["closed", "tune"], {"WC": 40, "CC": 30, "CE": 20, "WW": 30}),
        "tune",
        method="lora",
        arm="tune",
        warned=codes("errors"),
    ),
    Case(
        "an arm of failures alone is absent",
        blocks(["closed", "oracle", "tune"], {"WCE": 40, "CCE": 30, "WWE": 30}),
        "rag",
        warned=codes("arm_failed"),
    ),
    Case(
        "every call of every arm failed",
        blocks(["closed", "oracle"], {"EE": 50}),
        "undecided",
        warned=codes("arm_failed"),
        needs=codes("arm:closed"),
    ),
    Case("no closed arm", blocks(["oracle", "tune"], {"CW": 50, "CC": 20}), "undecided", needs=codes("arm:closed")),
    Case(
        "arms on different items are compared on those they share",
        blocks(["closed", "oracle"], {"W.": 60, ".C": 60, "CC": 30, "WW": 10}),
        "undecided",
        warned=codes("missing_items"),
    ),
    Case(
        "an arm nobody knows is shown and no route",
        blocks(["closed", "magic", "oracle"], {"WCW": 60, "CCC": 60, "WWW": 280}),
        "none",
    ),
    Case(
        "passages with demonstrations, the demonstrations alone unmeasured, tell nothing of knowledge",
        blocks(["closed", "oracle", "oracle_few_shot"], {"CCC": 30, "WWC": 40, "WWW": 30}),
        "undecided",
        needs=codes("arm:few_shot"),
    ),
    Case(
        "passages gain with demonstrations and neither alone does",
        blocks(["closed", "few_shot:3", "oracle", "oracle_few_shot"], {"CCCC": 30, "WWWC": 40, "WWWW": 30}),
        "rag",
    ),
    Case(
        "what passages with demonstrations gain is the demonstrations'",
        blocks(["closed", "few_shot:3", "oracle", "oracle_few_shot"], {"CCCC": 30, "WCWC": 40, "WWWW": 30}),
        "few-shot",
        arm="few_shot:3",
    ),
    Case(
        "junk passages are no remedy",
        blocks(["closed", "wrong_passage"], {"WC": 40, "CC": 30, "WW": 30}),
        "undecided",
    ),
]


def decide(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["decide", str(path), "--json", *options]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def write(path: Path, table: Any) -> Path:
    text = json.dumps(table) if isinstance(table, dict) else "".join(json.dumps(row) + "\n" for row in table)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_the_verdict_is_what_a_careful_statistician_says(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = decide(write(tmp_path / "table.json", case.table), capsys, *case.options)
    warned = {warning["code"] for warning in found["warnings"]}
    assert (found["route"], found["ready"], found["method"]) == (case.route, case.ready, case.method), found["reasons"]
    assert found["route_arm"] == case.arm
    assert case.warned <= warned
    assert not case.not_warned & warned
    assert case.needs <= {need["what"] for need in found["needs"]}
    assert found["confidence"] < 1


def test_there_are_cases_of_every_route() -> None:
    assert {case.route for case in CASES} == {
        *("base", "prompt", "few-shot", "rag", "tune", "rag+tune", "none", "undecided")
    }
    assert len(CASES) >= 40


PLAIN = blocks(["closed", "oracle"], {"WC": 40, "CC": 30, "WW": 30})


@pytest.mark.parametrize(
    "spell",
    [
        lambda lines: "\ufeff" + "\n".join(lines),
        lambda lines: "\r\n".join(lines) + "\r\n",
        lambda lines: "\n\n  \n".join(lines) + "\n\n",
        lambda lines: "[" + ",\n".join(lines) + "]",
        lambda lines: "\n".join(reversed(lines)),
        lambda lines: "\n".join(line.replace('"item": "q', '"note": null, "item": "q') for line in lines),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "JSON array", "reversed", "unknown field"],
)
def test_however_the_rows_are_written_the_verdict_is_the_same(
    spell: Callable[[list[str]], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = decide(write(tmp_path / "plain.jsonl", PLAIN), capsys)
    path = tmp_path / "spelt.jsonl"
    path.write_bytes(spell([json.dumps(row) for row in PLAIN]).encode())
    assert decide(path, capsys) == plain


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content": "yes"}, "\"content\" is 'yes'; it must be 0 or 1"),
        ({"content": 0.5}, '"content" is 0.5; it must be 0 or 1'),
        ({"score": float("nan")}, '"score" must be a number, got NaN'),
        ({"score": 87}, "write 0.87, not 87"),
        ({"score": True}, '"score" must be a number, got true'),
        ({"outcome": "right"}, "must be one of correct, wrong, refused, error"),
        ({"outcome": None}, '"outcome" is missing'),
        ({"item": None}, '"item" is missing'),
        ({"arm": ""}, '"arm" is missing'),
        ({"arm": ["closed"]}, '"arm" must be a string'),
        ({"latency_s": -1}, '"latency_s" is -1'),
        ({"input_tokens": 1.5}, "must be a whole number"),
        ({"item": "q1", "arm": "closed"}, "stands twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_row_that_cannot_be_is_named_with_its_line(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [dict(row) for row in PLAIN]
    bad[6] |= change
    path = write(tmp_path / "bad.jsonl", bad)
    assert main(["decide", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "bad.jsonl:7" in error
    assert error.count("\n") == 1


def test_true_and_false_stand_for_1_and_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = shaped({"closed": [(60, 0, 0)], "oracle": [(40, 1, 0), (20, 0, 0)]})
    words = [{**row, "content": bool(row["content"]), "form": bool(row["form"])} for row in numbers]
    assert decide(write(tmp_path / "a.jsonl", numbers), capsys) == decide(write(tmp_path / "b.jsonl", words), capsys)


def test_a_comparison_that_was_made_before_is_the_same_comparison() -> None:
    from advisor.case import Case as RuleCase
    from advisor.outcomes import OutcomeTable
    from advisor.rule import DecisionSettings

    table = OutcomeTable.from_totals(totals(closed=(150, 60), prompt__1=(150, 80), prompt__2=(150, 62)))
    case = RuleCase(table, DecisionSettings())
    alone, chosen = case.against_closed["prompt:1"], case.gates["prompt", "correct"]
    assert chosen.p == pytest.approx(2 * alone.p)  # the better of two pays for the choice, asked again or not


_ARMS = ["closed", "few_shot:3", "few_shot:8", "oracle", "retrieved", "tune:head"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("CWRE.", min_size=len(_ARMS), max_size=len(_ARMS)), min_size=1, max_size=12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_no_order_of_rows_changes_any_number(patterns: list[str], in_documents: bool, random: Any) -> None:
    from advisor.outcomes import OutcomeRow, OutcomeTable
    from advisor.verdict import decide as rule

    made = rows(_ARMS, {"C" * len(_ARMS): 2, **dict.fromkeys(patterns, 3)})
    if in_documents:
        made = [OutcomeRow(r.item, r.arm, r.outcome, cluster=f"d{int(r.item[1:]) % 4}") for r in made]
    shuffled = made.copy()
    random.shuffle(shuffled)
    assert rule(OutcomeTable.from_rows(made)).to_json() == rule(OutcomeTable.from_rows(shuffled)).to_json()


@pytest.mark.parametrize("size", [3, 4, 6])
@pytest.mark.parametrize("lost", [0, 1, 3])
def test_few_items_of_few_documents_are_decided_whatever_they_gain(size: int, lost: int) -> None:
    """A spread as wide as it can be leaves no room for a gain that was rounded up (41.7 points of 12 items)."""
    from advisor.outcomes import OutcomeRow, OutcomeTable
    from advisor.verdict import decide as rule

    for gained in range(1, 13 - lost):
        made = rows(["closed", "tune"], {"WC": gained, "CW": lost, "WW": 12 - gained - lost})
        table = OutcomeTable.from_rows(
            OutcomeRow(r.item, r.arm, r.outcome, cluster=f"d{(int(r.item[1:]) - 1) // size}") for r in made
        )
        verdict = rule(table)
        assert verdict.route == "tune" or verdict.needs, (gained, verdict.route)

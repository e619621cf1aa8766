"""The real-data benchmark's own claims: what it draws, what it calls right, what it says was not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.advise import FULL, QUICK, compare_pick, picked, remedies, use_case_result, write_results
from benchmarks.table import advise_rows
from benchmarks.use_cases import USE_CASES, Files, named, write_use_case
from core.rows import read_rows


def verdict(route: str, method: str | None = None, **rates: float) -> dict[str, Any]:
    arms = {"closed": {"n": 40, "correct": 0, "rate": 0.0}}
    arms |= {arm: {"n": 40, "correct": round(40 * rate), "rate": rate} for arm, rate in rates.items()}
    return {"route": route, "method": method, "confidence": 0.9, "reasons": [], "needs": [], "arms": arms}


def right(n: int, of: int = 40) -> dict[str, bool]:
    return {f"q{i}": i < n for i in range(of)}


@pytest.mark.parametrize(
    ("found", "arm"),
    [
        (verdict("rag"), "rag"),
        (verdict("tune", "head"), "tune:head"),
        (verdict("rag+tune", "lora"), "rag+tune"),
        (verdict("none"), "base"),
        (verdict("undecided"), "base"),
    ],
)
def test_a_verdict_stands_for_what_it_ships(found: dict[str, Any], arm: str) -> None:
    assert picked(found) == arm


def test_a_pick_two_items_behind_of_forty_is_within_delta_and_three_are_not() -> None:
    near = compare_pick("rag", {"base": right(1), "rag": right(18), "tune:lora": right(20)}, verdict("rag"))
    far = compare_pick("rag", {"base": right(1), "rag": right(17), "tune:lora": right(20)}, verdict("rag"))
    assert (near["best"], near["within_delta"]) == ("tune:lora", True)
    assert far["within_delta"] is False
    assert far["behind"]["low"] < far["behind"]["value"] < far["behind"]["high"]


def test_a_tie_with_the_best_arm_is_the_best_arm() -> None:
    assert compare_pick("rag", {"base": right(20), "rag": right(20)}, verdict("rag"))["best"] == "rag"


def test_a_miss_says_what_was_seen_of_the_better_arm() -> None:
    arms = {"base": right(0), "tune:lora": right(30)}
    seen = compare_pick("base", arms, verdict("undecided", **{"tune:lora": 0.1}))
    assert "undecided on 40 items" in seen["why"]
    assert "its tune:lora arm stood at 10%" in seen["why"]
    assert "75% against 0%" in seen["why"]
    assert "it measured no tune:lora arm" in compare_pick("base", arms, verdict("base"))["why"]


def step(folder: Path, name: str, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    value = {"wall_s": 1.0, "cpu_s": 2.0, "made": {}, **values}
    (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def advice(folder: Path) -> None:
    files = {"drawn": {"eval": 40, "held_out": 4, "train": 9}, "of": {"pool": 90, "train": 9}}
    step(
        folder,
        "advise",
        verdict=verdict("tune", "lora"),
        absent=[],
        files=files,
        scorer="label",
        labels=False,
        format_line=False,
    )


def test_results_are_judged_when_every_arm_is_there_and_say_what_is_missing(tmp_path: Path) -> None:
    steps = tmp_path / "quick" / "steps" / "gsm8k"
    homes = {"quick": (QUICK, tmp_path / "quick"), "full": (FULL, tmp_path / "full")}
    results = tmp_path / "advise.json"
    advice(steps)
    step(steps, "base", outcomes={f"q{i}": "wrong" for i in range(4)}, build_s=0.0)
    first = write_results(homes, results)
    assert (first["judged"], first["not_finished"]) == (0, ["gsm8k"])
    assert first["use_cases"][0]["missing_arms"] == ["few-shot", "tune:lora"]
    assert "gsm8k" not in first["not_run"]
    assert "squad2" in first["not_run"]

    step(steps, "few-shot", outcomes={f"q{i}": "wrong" for i in range(4)}, build_s=0.0)
    step(steps, "tune-lora", outcomes={f"q{i}": "error" if i == 3 else "correct" for i in range(4)}, build_s=9.0)
    done = write_results(homes, results)
    assert (done["judged"], done["right"]) == (1, 1)
    assert done["use_cases"][0]["held_out"]["tune:lora"]["n"] == 3, "a failed call is no answer"
    assert json.loads(results.read_text(encoding="utf-8"))["use_cases"] == done["use_cases"]
    rows = advise_rows(done)
    assert rows[0][1] == "1 of 1 use cases"
    assert any(what.startswith("not run: xquad-en") for what, _, _ in rows)


def test_a_finished_quick_run_is_not_displaced_by_an_unfinished_full_one(tmp_path: Path) -> None:
    homes = {"quick": (QUICK, tmp_path / "quick"), "full": (FULL, tmp_path / "full")}
    for name in ("base", "few-shot", "tune-lora"):
        step(tmp_path / "quick" / "steps" / "gsm8k", name, outcomes={"q": "wrong"}, build_s=0.0)
    advice(tmp_path / "quick" / "steps" / "gsm8k")
    advice(tmp_path / "full" / "steps" / "gsm8k")
    (row,) = write_results(homes, tmp_path / "advise.json")["use_cases"]
    assert (row["form"], row["complete"]) == ("quick", True)


def test_a_use_case_without_advice_has_no_result(tmp_path: Path) -> None:
    assert use_case_result(USE_CASES[0], QUICK, tmp_path) is None


@pytest.mark.parametrize("spec", USE_CASES, ids=[spec.name for spec in USE_CASES])
def test_sets_are_drawn_alike_and_never_share_an_item(spec: Any, shared_data: Path, tmp_path: Path) -> None:
    files = write_use_case(spec, shared_data, tmp_path / "a", 20, 15, 30, 60, seed=0)
    again = write_use_case(spec, shared_data, tmp_path / "b", 20, 15, 30, 60, seed=0)
    measured, held_out = read_rows(files.eval, "evaluation"), read_rows(files.held_out, "evaluation")
    train = read_rows(files.train, "training")
    assert (len(measured), len(held_out), len(train)) == (20, 15, 30)
    inputs = [{row.input for row in rows} for rows in (measured, held_out, train)]
    assert not inputs[0] & inputs[1]
    assert not inputs[2] & (inputs[0] | inputs[1])
    assert files.eval.read_bytes() == again.eval.read_bytes()
    assert files.train.read_bytes() == again.train.read_bytes()
    if files.corpus is not None:
        with files.corpus.open(encoding="utf-8") as lines:
            known = {json.loads(line)["id"] for line in lines}
        assert {id for row in (*measured, *held_out, *train) for id in row.context_ids} <= known


def test_remedies_are_those_that_the_data_supports() -> None:
    plain = Files(Path(), Path(), Path(), None, {}, {})
    names = [name for name, _, _ in remedies(plain, {"format_line": True, "labels": True})]
    assert names == ["base", "prompt", "few-shot", "tune:head", "tune:lora"]
    with_documents = plain._replace(corpus=Path())
    names = [name for name, _, _ in remedies(with_documents, {"format_line": False, "labels": False})]
    assert names == ["base", "few-shot", "rag", "tune:lora", "rag+tune"]


def test_an_unknown_use_case_ends_the_benchmark_with_its_name() -> None:
    with pytest.raises(SystemExit, match="unknown use case squat"):
        named(["squat"])

"""One doubling ahead, with an interval that holds the truth; 50 rows without a gain end it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from advisor.learning_curve import Curve, Point, extrapolate
from core.cli import main
from core.engines.scripted import ScriptedEngine
from core.files import read_json
from core.workspace import Workspace


def points(rates: dict[int, float], n: int, seed: int, gap: float = 0.0) -> list[Point]:
    """Pilots of those true rates on the same items; the second seed of the smallest differs by `gap`."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    found = [Point(rows, 0, (hard + 0.1 * rng.normal(size=n) < rate).astype(float)) for rows, rate in rates.items()]
    smallest = min(rates)
    return [*found, Point(smallest, 1, (hard + 0.1 * rng.normal(size=n) < rates[smallest] + gap).astype(float))]


def test_a_straight_curve_goes_on_for_one_doubling() -> None:
    found = extrapolate(points({50: 0.4, 100: 0.5, 200: 0.6}, 4000, 1), None)
    assert found is not None
    assert found.value == pytest.approx(0.7, abs=0.03)
    assert found.low < found.value < found.high


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    held = 0
    for seed in range(200):
        found = extrapolate(points({50: 0.4, 100: 0.5, 200: 0.6}, 100, seed), None)
        assert found is not None
        held += found.low <= 0.7 <= found.high
    assert 180 <= held <= 199


def test_seeds_that_disagree_widen_it() -> None:
    same = extrapolate(points({50: 0.4, 100: 0.5, 200: 0.6}, 300, 3), None)
    apart = extrapolate(points({50: 0.4, 100: 0.5, 200: 0.6}, 300, 3, gap=0.2), None)
    assert same is not None
    assert apart is not None
    assert apart.high - apart.low > same.high - same.low


def test_nothing_is_better_than_always_right() -> None:
    found = extrapolate(points({50: 0.8, 100: 0.9, 200: 1.1}, 200, 4), None)
    assert found is not None
    assert found.high <= 1


def test_two_sizes_are_no_curve() -> None:
    assert extrapolate(points({50: 0.4, 100: 0.5}, 100, 5), None) is None


@pytest.mark.parametrize(("gained", "stops"), [(0, True), (8, False)])
def test_fifty_rows_without_a_gain_end_it(gained: int, stops: bool) -> None:
    closed = np.zeros(40)
    right = closed.copy()
    right[:gained] = 1
    curve = Curve("tune:lora", (Point(200, 0, right), Point(50, 0, right)), closed, None, stops)
    assert curve.no_gain() is stops
    assert (curve.notice() is not None) is stops
    rule = curve.document()["stop_rule"]
    assert (rule["rows"], rule["stop"]) == (50, stops)


@pytest.mark.usefixtures("encoder_folder")
def test_a_head_gets_its_curve_without_being_asked(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "animal": ["dog", "cat", "horse", "lion", "cow", "wolf", "bear"],
        "tool": ["hammer", "saw", "drill", "axe", "pliers", "wrench", "file"],
    }
    rng = random.Random(0)
    said = [
        (f"the {rng.choice(words[label])} number {i} by the {rng.choice(['door', 'road', 'wall'])}", label)
        for i, label in enumerate(["animal", "tool"] * 46)
    ]
    for name, part in (("eval", said[:20]), ("train", said[20:])):
        lines = [
            json.dumps({"id": f"{name}{i}", "input": text, "output": label}) for i, (text, label) in enumerate(part)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("advisor.advise.open_engine", lambda *_: ScriptedEngine(lambda _: "animal"))
    args = ["--eval", str(tmp_path / "eval.jsonl"), "--train", str(tmp_path / "train.jsonl"), "--arms", "tune:head"]
    assert main(["advise", "things", *args, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    report = read_json(workspace.use_case("things").path / "runs" / verdict["run"] / "report.json")
    (curve,) = report["learning_curve"]
    assert [(point["rows"], point["seed"]) for point in curve["points"]] == [(18, 0), (18, 1), (36, 0), (72, 0)]
    assert curve["doubling"]["rows"] == 144
    assert curve["points"][-1]["rate"] == verdict["arms"]["tune:head"]["rate"]

"""`tunefork decide`: one JSON document or a summary, and one line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.cli import main

TOTALS = (
    '{"metric": "accuracy", "arms": {"closed": {"n": 910, "correct": 438}, "retrieved": {"n": 910, "score": 0.875}}}'
)


@pytest.fixture
def totals(tmp_path: Path) -> str:
    path = tmp_path / "totals.json"
    path.write_text(TOTALS)
    return str(path)


def test_json_is_one_document_alone_on_stdout(totals: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", totals, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["schema_version"], verdict["route"], verdict["delta"]) == (1, "rag", 0.05)


def test_the_summary_says_the_verdict_first(totals: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", totals]) == 0
    out = capsys.readouterr().out
    assert (
        out.index("RAG: retrieval is the remedy")
        < out.index("Arms")
        < out.index("Comparisons")
        < out.index("Quantities")
    )


def test_arm_names_are_not_read_as_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"item": i, "arm": arm, "outcome": "wrong"}) + "\n"
            for i in range(9)
            for arm in ("closed", "[red]x")
        )
    )
    assert main(["decide", str(path)]) == 0
    assert "[red]x" in capsys.readouterr().out


def test_standard_input_is_read_for_a_dash() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "core.cli", "decide", "-", "--json"],
        input=TOTALS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["route"] == "rag"


def test_delta_target_and_constraints_reach_the_rule(totals: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", totals, "--json", "--delta", "0.45", "--target", "0.4", "--constraint", "must-cite"]) == 0
    assert json.loads(capsys.readouterr().out)["route"] == "rag"
    assert main(["decide", totals, "--json", "--delta", "0.45", "--target", "0.4", "--constraint", "must_cite=no"]) == 0
    assert json.loads(capsys.readouterr().out)["route"] == "base"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delta", "5"], "delta is 5; it must be between 0 and 1"),
        (["--target", "0"], "target is 0"),
        (["--constraint", "must_sight"], "unknown constraint 'must_sight'; did you mean must_cite"),
        (["--constraint", "latency_ms"], "latency_ms needs a number over 0"),
        (["--constraint", "latency_ms=-3"], "latency_ms needs a number over 0"),
        (["--constraint", "freshness=often"], "freshness is on or off"),
        (["--constraint", "freshness", "--constraint", "freshness=no"], "is given as True and as False"),
        (["--constraint", "latency_ms=5", "--constraint", "latency_ms=6"], "keep one of them"),
        (["--price", "cheap"], "--price is IN:OUT"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(
    totals: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decide", totals, *options]) == 2
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""


@pytest.mark.parametrize("content", ["", "{", "not json", "\x00\x01", "[]", "{}", '{"arms": {}}', "3"])
def test_a_file_that_is_no_table_is_one_line_and_exits_2(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    assert main(["decide", str(path), "--json"]) == 2
    found = capsys.readouterr()
    assert "broken.jsonl" in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""


def test_a_missing_file_is_one_line_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", "absent.jsonl"]) == 2
    assert "absent.jsonl: no such file" in capsys.readouterr().err


def test_thousands_of_items_take_under_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rates = {"closed": 0.3, "few_shot:8": 0.35, "oracle": 0.7, "retrieved": 0.6, "tune": 0.4, "tune_retrieved": 0.66}
    path = tmp_path / "big.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"item": i, "arm": arm, "outcome": "correct" if rng.random() < rate else "wrong", "cluster": i // 3}
            )
            + "\n"
            for i in range(4000)
            for arm, rate in rates.items()
        )
    )
    main(["decide", str(path), "--json"])  # imports are not what is measured
    start = time.process_time()
    assert main(["decide", str(path), "--json"]) == 0
    assert time.process_time() - start < 1.0
    assert json.loads(capsys.readouterr().out.split("\n}\n")[0] + "\n}")["route"] == "rag+tune"


def test_deciding_imports_no_heavy_library(totals: str) -> None:
    code = (
        "import sys; from core.cli import main; main(['decide', sys.argv[1], '--json']);"
        "sys.exit(', '.join(m for m in ('torch', 'transformers', 'pandas', 'scipy.stats', 'statsmodels', 'sklearn') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, totals], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"arms": {"closed": {"n": 1' + 400 * "0" + ', "correct": 3}}}', '"n" must be a number'),
        ('{"item": 1' + 5000 * "0" + ', "arm": "closed", "outcome": "wrong"}', "odd.json:1: not JSON"),
        ('{"item": 1, "arm": "\\ud800", "outcome": "wrong"}', '"arm" holds half a character'),
        ('{"item": NaN, "arm": "closed", "outcome": "wrong"}', '"item" must be a string or a number'),
        ('{"arms": {"closed": {"n": 9, "correct": 3}, "closed": {"n": 9, "correct": 9}}}', "'closed' stands twice"),
        ('{"arms": {"closed": {"n": 9, "correct": 3}, " closed": {"n": 9, "correct": 9}}}', "'closed' stands twice"),
    ],
    ids=[
        "400 digits",
        "5000 digits",
        "half a character",
        "an id that is no number",
        "an arm twice",
        "and with a blank",
    ],
)
def test_odd_values_are_one_line_and_exit_2(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    assert main(["decide", str(path), "--json"]) == 2
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""


def test_what_n_can_show_is_on_the_first_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    rates = {"closed": 20, "few_shot": 20, "oracle": 80, "retrieved": 70}
    path.write_text(
        "".join(
            json.dumps({"item": i, "arm": arm, "outcome": "correct" if i < right else "wrong"}) + "\n"
            for arm, right in rates.items()
            for i in range(100)
        )
    )
    assert main(["decide", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.index("100 items can show a gain of 15 points") < out.index("Arms")

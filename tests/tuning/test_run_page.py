"""The run's page: pure, whole, and safe against what rows and names may hold."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning.run_page import Series, plot, run_page, smoothed
from tuning.train import TrainReport

REPORT = TrainReport("lora", Path("x"), "base", 20, 4, 12.5, {"dev_exact": 0.5}, ("<b>odd</b>",))
STEPS = [{"step": n, "loss": 1 / n, "tokens_per_s": 100.0} for n in range(1, 30)]
DEV = [{"step": 10, "dev_loss": 0.5, "dev_score": 0.25}, {"step": 20, "dev_loss": 0.25, "dev_score": 0.5}]


def test_loss_dev_score_and_speed_are_plotted() -> None:
    page = str(run_page("bank", REPORT, [*STEPS, *DEV]))
    assert page.count("<svg") == 4
    assert "Dev rows answered word for word" in page


def test_a_head_has_scores_and_no_plots() -> None:
    page = str(run_page("bank", REPORT, []))
    assert "<svg" not in page
    assert "dev exact" in page


def test_what_was_written_by_others_is_escaped() -> None:
    page = str(run_page("<script>", REPORT, STEPS))
    assert "<script>" not in page
    assert "&lt;b&gt;odd" in page


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=40))
def test_any_numbers_make_a_plot_within_its_frame(values: list[float]) -> None:
    values = [v if not math.isfinite(v) else abs(v) % 1e6 for v in values]
    found: list[str] = []

    class Points(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(v or "" for k, v in attrs if k == "points")

    Points().feed(str(plot([Series(list(enumerate(values)), "main")])))
    for point in " ".join(found).split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 640
        assert 0 <= y <= 200


def test_the_average_starts_at_the_first_value() -> None:
    assert smoothed([(1, 4.0), (2, 4.0)]) == [(1, pytest.approx(4.0)), (2, pytest.approx(4.0))]

"""Demonstrations come from the training rows, the same ones for the same seed."""

from __future__ import annotations

from advisor.few_shot import demonstrations
from core.rows import Row
from core.types import Message

ROWS = [Row(f"t{i}", (Message("user", f"text {i} " + "x" * i),), (f"label{i % 5}",)) for i in range(50)]


def test_three_demonstrations_are_the_first_of_eight() -> None:
    eight = demonstrations(ROWS, 8, 0, labels=True)
    assert demonstrations(ROWS, 3, 0, labels=True) == eight[:3]
    assert demonstrations(list(reversed(ROWS)), 8, 0, labels=True) == eight
    assert demonstrations(ROWS, 8, 1, labels=True) != eight


def test_labels_are_spread_before_one_repeats() -> None:
    assert len({shot.output for shot in demonstrations(ROWS, 5, 0, labels=True)}) == 5


def test_fewer_rows_than_asked_for_are_all_there_is() -> None:
    assert len(demonstrations(ROWS[:2], 8, 0, labels=False)) == 2

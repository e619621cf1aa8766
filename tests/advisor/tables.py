"""Outcome tables for the tests: from blocks of items that fare alike, or from totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advisor.outcomes import OutcomeRow, OutcomeTable

_WORDS = {"C": "correct", "W": "wrong", "R": "refused", "E": "error"}


def rows(arms: Sequence[str], blocks: Mapping[str, int]) -> list[OutcomeRow]:
    """`rows(["closed", "tune"], {"CW": 3})`: three items that closed has right and tune wrong; `.` leaves a row out."""
    out = []
    item = 0
    for pattern, count in blocks.items():
        for _ in range(count):
            item += 1
            out += [
                OutcomeRow(f"q{item}", arm, _WORDS[letter])  # type: ignore[arg-type]
                for arm, letter in zip(arms, pattern, strict=True)
                if letter != "."
            ]
    return out


def table(arms: Sequence[str], blocks: Mapping[str, int]) -> OutcomeTable:
    return OutcomeTable.from_rows(rows(arms, blocks))


def totals(**arms: tuple[int, int]) -> OutcomeTable:
    """`totals(closed=(910, 438))`; a double underscore stands for the colon of a variant."""
    entries = {name.replace("__", ":"): {"n": n, "correct": correct} for name, (n, correct) in arms.items()}
    return OutcomeTable.from_totals({"metric": "accuracy", "arms": entries})

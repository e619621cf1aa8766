"""What an arm's name says: its family before the first colon, its variant after it."""

from __future__ import annotations

import re
from typing import NamedTuple

from core.search_settings import Place

CLOSED = "closed"
PROMPT = "prompt"
FEW_SHOT = "few_shot"
ORACLE = "oracle"
ORACLE_FEW_SHOT = "oracle_few_shot"
RETRIEVED = "retrieved"
TUNE = "tune"
TUNE_RETRIEVED = "tune_retrieved"
TUNE_ORACLE = "tune_oracle"
WRONG_PASSAGE = "wrong_passage"

FAMILIES = (
    CLOSED,
    PROMPT,
    FEW_SHOT,
    ORACLE,
    ORACLE_FEW_SHOT,
    RETRIEVED,
    TUNE,
    TUNE_RETRIEVED,
    TUNE_ORACLE,
    WRONG_PASSAGE,
)
"""The arms of decision.md, in the order in which tables show them."""

WITH_PASSAGES = frozenset([ORACLE, ORACLE_FEW_SHOT, RETRIEVED, TUNE_RETRIEVED, TUNE_ORACLE, WRONG_PASSAGE])
"""What is asked with passages in the prompt, and so needs documents or gold passages."""

REMEDIES = FAMILIES[1:-1]
"""What could end in a route; `wrong_passage` only tells how a model takes junk."""


def family(arm: str) -> str:
    """`few_shot` for `few_shot:8_similar`; an unknown name is its own family and never enters a route."""
    return arm.partition(":")[0]


def tuning_method(arm: str) -> str:
    """`head` for `tune:head`, else `lora` (`tune`, `tune:lora`)."""
    return "head" if arm.split(":")[1:2] == ["head"] else "lora"


class Shots(NamedTuple):
    k: int
    similar: bool
    """Chosen for each question by likeness, not at random for all of them."""


def shots_of(arm: str) -> Shots | None:
    """What `few_shot:8` or `few_shot:8_similar` says; None for any other name, such as `few_shot:cross-fit`."""
    match = re.fullmatch(rf"{FEW_SHOT}:(\d+)(_similar)?", arm)
    return None if match is None else Shots(int(match[1]), match[2] is not None)


def context_of(arm: str) -> Place | None:
    """Where `retrieved:context_last` and its like have the context of a question; None where the name says nothing."""
    places: dict[str, Place] = {"context_first": "first", "context_last": "last"}
    return places.get(arm.partition(":")[2])


def in_order(arm: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Sort key: families as in the method, then unknown arms; `few_shot:3` before `few_shot:16`."""
    known = family(arm)
    rank = FAMILIES.index(known) if known in FAMILIES else len(FAMILIES)
    pieces = re.findall(r"\d+|\D+", arm)
    return rank, [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]

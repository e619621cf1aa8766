from __future__ import annotations

import pytest

from core.types import Source
from rag.evidence import THRESHOLD, evidence, insufficient, passage_evidence


def passages(*shares: float) -> list[Source]:
    return [Source(i, "d", "", "x", 1.0, {"evidence": share}) for i, share in enumerate(shares, start=1)]


def test_the_best_passage_is_the_evidence() -> None:
    assert evidence(passages(0.2, 0.9)) == 0.9
    assert evidence([]) == 0


@pytest.mark.parametrize(
    ("abstain", "shares", "silent"),
    [
        (False, (), False),
        (True, (), True),
        (True, (THRESHOLD + 0.01,), False),
        (True, (THRESHOLD - 0.01,), True),
        (0.9, (0.8,), True),
        (0.0, (0.0,), False),
    ],
)
def test_abstaining_is_a_threshold_on_the_evidence(
    abstain: bool | float, shares: tuple[float, ...], silent: bool
) -> None:
    assert insufficient(passages(*shares), abstain) is silent


def test_nearness_and_words_speak_for_an_answer_and_chance_against_it() -> None:
    known = passage_evidence(3, 0.3, 100, foreign=False)
    assert passage_evidence(4, 0.3, 100, foreign=False) > known
    assert passage_evidence(3, 0.4, 100, foreign=False) > known
    assert passage_evidence(3, 0.3, 100_000, foreign=False) < known


def test_an_encoder_of_another_language_has_no_say() -> None:
    assert passage_evidence(0, 0.3, 100, foreign=True) == passage_evidence(9, 0.3, 100, foreign=True)

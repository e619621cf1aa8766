"""Demonstrations come from the training rows, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from advisor.arm_names import Shots, family, shots_of
from advisor.few_shot import demonstrations, examples, similar_demonstrations
from core.prompts import Demonstration
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


class Listed:
    """A store whose nearest examples are always the same."""

    def __init__(self, *inputs: str) -> None:
        self.examples = [Demonstration(text, f"answer {i}") for i, text in enumerate(inputs)]

    def nearest(self, texts: Sequence[str], k: int) -> list[list[Demonstration]]:
        return [self.examples[:k] for _ in texts]


def test_the_most_alike_stands_last() -> None:
    store = Listed("where is my card", "when does the card come", "shoes")
    (chosen,) = similar_demonstrations(store, ["has my card been sent"], 2)
    assert [shot.output for shot in chosen] == ["answer 1", "answer 0"]


def test_an_example_that_is_nearly_the_question_is_left_out() -> None:
    question = "When will the new card that I ordered arrive at home?"
    store = Listed(question, "when will the new card that I ordered arrive at my home", "Where is my card?")
    (chosen,) = similar_demonstrations(store, [question], 2)
    assert [shot.input for shot in chosen] == ["Where is my card?"]


def test_examples_are_training_rows_without_the_order_of_the_file() -> None:
    assert examples(ROWS, 0) == examples(list(reversed(ROWS)), 0)
    assert {shot.input for shot in examples(ROWS, 0)} == {row.input for row in ROWS}


@pytest.mark.parametrize(
    ("arm", "found"),
    [
        ("few_shot:8", Shots(8, False)),
        ("few_shot:3_similar", Shots(3, True)),
        ("few_shot", None),
        ("few_shot:cross-fit", None),
        ("tune:8", None),
    ],
)
def test_what_the_name_of_an_arm_says(arm: str, found: Shots | None) -> None:
    assert shots_of(arm) == found
    assert family(arm) == arm.partition(":")[0]

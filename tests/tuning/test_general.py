"""The harm check: asked before and after, a certain loss is a warning, anything else is not."""

from __future__ import annotations

import json
from pathlib import Path

from tuning.examples import TrainingTokenizer
from tuning.general import ITEMS, general_set, harm, harm_warning, right_answers


def test_the_set_is_forty_different_questions_with_wrong_answers_that_differ() -> None:
    items = [json.loads(line) for line in ITEMS.read_text().splitlines()]
    assert len({item["question"] for item in items}) == 40
    assert all(
        item["answer"] not in item["others"] and len(set(item["others"])) == len(item["others"]) for item in items
    )


def test_the_starter_model_is_well_above_chance_and_packing_changes_next_to_nothing(starter_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(starter_folder)
    general = general_set(TrainingTokenizer(starter_folder))
    right = right_answers(model, general, 512, packed=True)
    assert len(right) == general.items == 40
    assert sum(right) >= 24  # guessing gets 11
    first = general.choices[0]
    few = type(general)(general.examples[:first], (first,), general.prefix)
    assert right_answers(model, few, 512, packed=False) == right[:1]


def test_a_loss_within_its_interval_is_no_warning() -> None:
    before = [True] * 30 + [False] * 10
    after = [False] * 3 + [True] * 28 + [False] * 9
    found = harm(before, after)
    assert (found["lost"], found["gained"]) == (3, 1)
    assert not found["harmed"]
    assert harm_warning(found) is None


def test_a_collapse_is_a_warning_with_its_numbers() -> None:
    found = harm([True] * 30 + [False] * 10, [True] * 12 + [False] * 28)
    assert found["harmed"]
    text = harm_warning(found)
    assert text is not None
    assert "12 of 40 right instead of 30 (18 lost, 0 gained" in text

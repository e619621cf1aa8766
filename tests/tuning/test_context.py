"""Context tuning: rows are asked as a RagEngine asks, most with their gold passage, in an order that tells nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import ConfigError
from core.prompts import grounded
from core.rows import Row
from core.types import Source
from tests.tuning.conftest import row
from tuning.context import ContextRecipe, Passages, context_rows, own_passages


def _source(id: str) -> Source:
    return Source(1, id, "", f"text of {id}", 1.0)


ROWS = [row(f"question {n}", f"answer {n}", n) for n in range(200)]
PASSAGES = [Passages((_source(f"gold{n}"),), tuple(_source(f"other{n}-{k}") for k in range(6))) for n in range(200)]


def _shown(made: Row) -> list[str]:
    return [line.split("text of ")[1] for line in made.messages[-1].content.splitlines() if "text of " in line]


def test_the_gold_share_is_kept_and_distractors_are_one_to_four() -> None:
    made = context_rows(ROWS, PASSAGES, ContextRecipe(gold_share=0.8))
    with_gold = ["gold" in "".join(_shown(r)) for r in made.rows]
    assert sum(with_gold) == made.with_gold
    assert 140 < made.with_gold < 180
    counts = {len(_shown(r)) - gold for r, gold in zip(made.rows, with_gold, strict=True)}
    assert counts == {1, 2, 3, 4}


def test_the_place_of_the_gold_passage_gives_nothing_away() -> None:
    made = context_rows(ROWS, PASSAGES, ContextRecipe(gold_share=1.0))
    first = sum(_shown(r)[0].startswith("gold") for r in made.rows)
    assert 40 < first < 110


def test_answers_cite_the_gold_passage_by_its_number() -> None:
    made = context_rows(ROWS[:30], PASSAGES[:30], ContextRecipe(gold_share=1.0, cite=True))
    for before, after in zip(ROWS, made.rows, strict=False):
        number = next(i for i, shown in enumerate(_shown(after), start=1) if shown.startswith("gold"))
        assert after.output == f"{before.output} [{number}]"


def test_an_answer_without_its_passage_cites_nothing() -> None:
    made = context_rows(ROWS[:5], [Passages((), p.distractors) for p in PASSAGES[:5]], ContextRecipe(cite=True))
    assert [r.output for r in made.rows] == [r.output for r in ROWS[:5]]
    assert (made.with_gold, made.without_known_gold) == (0, 5)


def test_the_words_are_those_of_the_engine() -> None:
    made = context_rows(ROWS[:1], [Passages((_source("gold0"),), ())], ContextRecipe(gold_share=1.0)).rows[0]
    assert made.messages == grounded(ROWS[0].messages, [_source("gold0")])


def test_the_draw_hangs_on_seed_and_row_alone() -> None:
    forward = context_rows(ROWS, PASSAGES, ContextRecipe()).rows
    backward = context_rows(ROWS[::-1], PASSAGES[::-1], ContextRecipe()).rows
    assert forward == backward[::-1]
    assert forward != context_rows(ROWS, PASSAGES, ContextRecipe(seed=1)).rows


def test_without_an_index_the_rows_own_contexts_serve_and_the_likest_others_distract() -> None:
    rows = [
        replace(row("where do otters sleep", "in dens"), id="a", context=("Otters sleep in dens by the river.",)),
        replace(row("what do otters eat", "fish"), id="b", context=("Otters eat fish and crabs.",)),
        replace(row("who built the bridge", "monks"), id="c", context=("The bridge was built by monks.",)),
    ]
    found = own_passages(rows)
    assert [s.text for s in found[0].gold] == ["Otters sleep in dens by the river."]
    assert found[0].distractors[0].text == "Otters eat fish and crabs."
    assert all(s.text not in rows[0].context for s in found[0].distractors)


def test_without_any_passages_context_tuning_is_refused() -> None:
    with pytest.raises(ConfigError, match="tunefork ingest"):
        own_passages(ROWS)

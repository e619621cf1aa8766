"""What is supervised: the answer and its end of turn, after exactly the prompt that the engine sends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.engines.tokens import ChatTokenizer
from core.errors import DataError
from core.prompts import instructed
from core.types import Message
from tests.tuning.conftest import row
from tuning.examples import Example, TrainingTokenizer, check_mask, make_example, make_examples


@pytest.fixture(scope="session")
def tokenizer(starter_folder: Path) -> TrainingTokenizer:
    return TrainingTokenizer(starter_folder)


def test_the_prompt_is_what_the_engine_sends(tokenizer: TrainingTokenizer, starter_folder: Path) -> None:
    asked = row("where is my card?", "card_lost")
    example = make_example(asked, tokenizer, "Answer with a label.")
    sent = ChatTokenizer(starter_folder).encode(instructed(asked.messages, "Answer with a label."))
    assert list(example.ids[: example.prompt]) == sent


def test_answer_and_end_of_turn_are_supervised_and_nothing_after_it(tokenizer: TrainingTokenizer) -> None:
    example = make_example(row("where is my card?", "card_lost"), tokenizer, "")
    assert tokenizer.raw_text(example.ids[example.prompt :]) == "card_lost<|im_end|>"


def test_only_the_last_turn_of_a_conversation_is_supervised(tokenizer: TrainingTokenizer) -> None:
    turns = (Message("user", "hello"), Message("assistant", "hi there"), Message("user", "my card is gone"))
    example = make_example(replace(row("", "card_lost"), messages=turns), tokenizer, "")
    assert tokenizer.raw_text(example.ids[example.prompt :]) == "card_lost<|im_end|>"
    assert "hi there" in tokenizer.raw_text(example.ids[: example.prompt])


def test_an_answer_that_ends_in_white_space_still_ends_its_turn(tokenizer: TrainingTokenizer) -> None:
    example = make_example(row("a poem", "one\ntwo\n"), tokenizer, "")
    assert example.ids[-1] == tokenizer.end_of_turn


def test_long_rows_are_refused_by_file_and_line(tokenizer: TrainingTokenizer) -> None:
    rows = [row("short", "a", 1), row("long " * 200, "b", 2)]
    with pytest.raises(DataError, match=r"rows\.jsonl: 1 of 2 rows .* 100 tokens .*rows\.jsonl:2 \(\d+ tokens\)"):
        make_examples(rows, tokenizer, "", 100, Path("rows.jsonl"))


def test_long_rows_are_counted_when_they_may_be_left_out(tokenizer: TrainingTokenizer) -> None:
    rows = [row("short", "a", 1), row("long " * 200, "b", 2)]
    made = make_examples(rows, tokenizer, "", 100, Path("rows.jsonl"), skip_long=True)
    assert [e.id for e in made.kept] == ["r1"]
    assert len(made.too_long) == 1


def test_rows_that_are_all_too_long_are_refused_even_so(tokenizer: TrainingTokenizer) -> None:
    with pytest.raises(DataError, match="1 of 1 rows"):
        make_examples([row("long " * 200, "b")], tokenizer, "", 100, skip_long=True)


def test_a_row_without_an_answer_is_named(tokenizer: TrainingTokenizer) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: row 'r7' has no answer"):
        make_examples([row("hello", None, 7)], tokenizer, "", None, Path("rows.jsonl"))


def test_the_mask_check_shows_the_first_answer(tokenizer: TrainingTokenizer) -> None:
    example = make_example(row("where is my card?", "card_lost"), tokenizer, "")
    assert "'card_lost<|im_end|>'" in check_mask([example], tokenizer)


@pytest.mark.parametrize("prompt", [0, 5], ids=["everything supervised", "nothing supervised"])
def test_a_mask_of_all_or_nothing_is_refused(tokenizer: TrainingTokenizer, prompt: int) -> None:
    with pytest.raises(DataError, match="of 5 tokens are supervised"):
        check_mask([Example("r1", (1, 5, 6, 7, tokenizer.end_of_turn), prompt)], tokenizer)


def test_an_answer_without_end_of_turn_is_refused(tokenizer: TrainingTokenizer) -> None:
    with pytest.raises(DataError, match="no end of turn"):
        check_mask([Example("r1", (1, 5, 6, 7), 2)], tokenizer)

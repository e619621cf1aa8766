"""Form is learnt where the training outputs agree, tells the shape in a line, and passes the house's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.form import MIN_OUTPUTS, FormSpec, learn_form
from advisor.shapes import common_end, common_run, common_start, shape_patterns
from core.rows import read_rows
from tests.advisor.rows import labelled, row


def _learn(*outputs: str) -> FormSpec:
    return learn_form([row(f"question {i}", output) for i, output in enumerate(outputs)])


def _names(form: FormSpec) -> set[str]:
    return {check.name for check in form.checks}


def test_labels_are_one_of_the_set_exactly() -> None:
    form = learn_form(labelled({"refund": 5, "card_arrival": 5}))
    assert form.check("card_arrival\n")
    assert not form.check("Card arrival")
    assert not form.check("The label is card_arrival")
    assert form.answer_format() == "Answer with exactly one of these labels and nothing else: card_arrival, refund."
    assert form.describe() == ["The answer is exactly one of 2 labels: card_arrival, refund"]


def test_lists_of_labels_are_made_of_known_labels() -> None:
    outputs = [("news, sport", "news", "sport, weather", "news, weather")[i % 4] for i in range(20)]
    form = _learn(*outputs)
    assert form.check("weather, news, sport")
    assert not form.check("The topics are news and sport")
    assert "news, sport, weather" in str(form.answer_format())


def test_json_has_the_keys_of_the_training_outputs() -> None:
    form = _learn(*(json.dumps({"name": f"n{i}", "age": i, **({"note": "x"} if i % 2 else {})}) for i in range(20)))
    assert form.check('{"age": 1, "name": "x"}')
    assert form.check('{"age": 1, "name": "x", "note": "y"}')
    for broken in (
        '{"name": "x"}',
        '{"age": 1, "name": "x", "other": 1}',
        "name: x",
        '```json\n{"age":1,"name":"x"}\n```',
    ):
        assert form.faults(broken) == ["json"]
    assert form.answer_format() == 'Answer with a JSON object only, with the keys "name", "age".'


def test_numbers_stand_alone() -> None:
    form = _learn(*(str(37 * i) for i in range(30)))
    assert form.check("1,200")
    assert form.check("-3.5")
    assert not form.check("The answer is 1200.")
    assert not form.check("")
    assert form.answer_format() == "Answer with the number only."


def test_the_last_line_of_worked_answers_is_learnt() -> None:
    form = _learn(
        *(
            f"{('First', 'We', 'So')[i % 3]} {i} apples.\nThen {i + 1} more, which makes {2 * i + 1}.\n#### {2 * i + 1}"
            for i in range(30)
        )
    )
    assert form.check("We add.\nThat is all.\n#### 1,200")
    assert "last_line" in form.faults("We add.\nThe answer is 1200.")
    assert "#### " in str(form.answer_format())


def test_a_dialect_is_learnt_by_its_start_end_and_phrases() -> None:
    columns = ("PRICE", "NAME", "DATE", "max SIZE")
    form = _learn(*(f"SELECT {columns[i % 4]} FROM TABLE AS T WHERE {columns[i % 3]} = {i} ;" for i in range(40)))
    assert form.check("SELECT a FROM TABLE AS T WHERE b = 1 ;")
    assert set(form.faults("select a from t where b = 1")) >= {"start", "end"}
    assert "phrase" in form.faults("SELECT a FROM T WHERE b = 1 ;")
    assert "SELECT" in str(form.answer_format())


def test_codes_have_a_shape() -> None:
    form = _learn(*(f"INV-{i:04d}" for i in range(30)))
    assert form.check("INV-9999")
    assert form.faults("inv 9999") != []
    assert form.faults("2024-01-01") != []


def test_one_line_length_script_and_language_are_learnt_generously() -> None:
    outputs = [f"The card is on its way and you will have it in {i} days at most." for i in range(30)]
    outputs = [
        text.replace("The card", ("The card", "Your card", "A new card")[i % 3]) for i, text in enumerate(outputs)
    ]
    outputs = [text.replace(" at most.", (" at most.", " or so!", " we hope")[i % 3]) for i, text in enumerate(outputs)]
    form = _learn(*outputs)
    assert form.check("We are sorry for the delay and have sent you a new card that is to be there in a week.")
    assert "one_line" in form.faults("It is on its way.\nIt will be there soon.")
    assert "length" in form.faults("It will be there soon. " * 30)
    assert "script" in form.faults("您的卡正在路上")
    assert "language" in form.faults("La tarjeta está en camino y la tendrá en su casa en una semana como mucho.")


def test_short_answers_may_be_somewhat_longer_than_all_seen() -> None:
    form = _learn(
        *(["Paris", "Rome", "Berlin", "Oslo", "Madrid", "Lima", "Quito", "Cairo", "Accra", "Tunis", "Delhi", "Seoul"])
    )
    assert form.check("the city of Paris, in France")
    assert form.answer_format() == "Answer in a few words."


def test_full_stops_are_no_rule() -> None:
    words = ["This", "That", "It", "All", "Tea", "Rain", "Snow", "Wind", "Sun", "Fog", "Hail", "Ice"]
    form = _learn(*(f"{first} is like {last.lower()}." for first, last in zip(words, reversed(words), strict=True)))
    assert form.check("Tea is good")


def test_few_rows_teach_nothing() -> None:
    form = _learn(*(f"INV-{i:04d}" for i in range(MIN_OUTPUTS - 1)))
    assert form == FormSpec(outputs=MIN_OUTPUTS - 1)
    assert form.check("anything at all")
    assert form.answer_format() is None
    assert learn_form([]).answer_format() is None


def test_refusals_and_unanswerable_rows_do_not_blur_the_form() -> None:
    rows = [row(f"q{i}", f"INV-{i:04d}") for i in range(30)]
    rows += [row(f"u{i}", "Not in the documents.") for i in range(10)]
    rows += [row(f"v{i}", "Ask a colleague", answerable=False) for i in range(10)]
    assert "shape" in _names(learn_form(rows))


def test_one_odd_row_in_many_does_not_unlearn_the_form() -> None:
    assert "start" in _names(_learn(*(f"Ticket {'x' * (i % 7)} {i}" for i in range(400)), "oops"))


@given(st.lists(st.text(min_size=1, max_size=20).map(str.strip).filter(bool), min_size=MIN_OUTPUTS, max_size=40))
def test_training_outputs_pass_their_own_form(outputs: list[str]) -> None:
    form = _learn(*outputs)
    passed = sum(form.check(output) for output in outputs)
    # Every check is kept by nearly all outputs; in so few rows that is all of them.
    assert passed == len(outputs)


@pytest.mark.parametrize(
    ("texts", "start", "end"),
    [
        (["SELECT a ;", "SELECT b ;"], "SELECT", ";"),
        (["SELECTa x", "SELECTb y"], "", ""),
        (["Dear Ann, hi", "Dear Bob, ho"], "Dear", ""),
        (["[a]", "[b]"], "[", "]"),
        (["one.", "two."], "", ""),
    ],
)
def test_common_start_and_end_are_whole_words(texts: list[str], start: str, end: str) -> None:
    assert (common_start(texts, 1), common_end(texts, 1)) == (start, end)


def test_a_common_phrase_is_no_prose() -> None:
    assert common_run(["a FROM TABLE AS t b", "c FROM TABLE AS t d"], 1) == "FROM TABLE AS t"
    assert common_run(["this is one of the best", "that was one of the worst"], 1) == ""


def test_words_are_no_codes() -> None:
    assert shape_patterns(["Paris", "Rome", "Oslo", "Lima", "Quito"], 1) == []
    assert shape_patterns([f"{h}:{h + 10}" for h in range(10)], 1) == [r"\d+:\d+"]


@pytest.mark.parametrize(
    ("name", "least"),
    [("banking77", 1.0), ("gsm8k", 1.0), ("wikisql_sub", 0.99), ("pubmedqa_l", 1.0)],
)
def test_held_out_gold_answers_have_the_form_learnt(shared_data: Path, name: str, least: float) -> None:
    form = learn_form(read_rows(shared_data / name / "train.jsonl", "training"))
    rows = read_rows(shared_data / name / "test.jsonl", "evaluation")
    assert form.checks
    assert sum(form.check(r.output) for r in rows) / len(rows) >= least

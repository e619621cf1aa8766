"""Answers as models really give them: wrapped, written out, denied, in Spanish and Chinese; right ones count, wrong ones do not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from advisor.form import FormSpec
from advisor.scorers import parse_scorer
from advisor.scorers.number_words import in_words
from advisor.scoring import outcome
from core.types import Message
from tests.advisor.rows import gold, row

CARDS = ("card", "card_arrival", "lost_card", "refund", "Refund not showing up")


def value(spec: str, answer: str, *answers: str, labels: tuple[str, ...] = ()) -> float:
    return parse_scorer(spec, labels).score(answer, gold(*answers)).value


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The answer is 42.", "42"),
        ("**42**", "42"),
        (r"\(42\)", "42"),
        ("42 (forty-two)", "42"),
        ("Final answer: 42. (Checked 2 times)", "42"),
        ("The answer is forty-two apples.", "42"),
        ("Five", "5"),
        ("minus five", "-5"),
        ("The answer is one.", "1"),
        ("one hundred and twenty-three", "123"),
        ("cuarenta y dos", "42"),
        ("Son mil doscientos treinta y cuatro euros", "1234"),
        ("四十二", "42"),
        ("一共是一百二十个", "120"),
        ("共有３４５个", "345"),
        ("总共需要12天", "12"),
        ("$1,234.50", "1234.5"),
        ("1.234,50 €", "1234.5"),
        ("La respuesta es 1.234,5", "1234.5"),
        ("Son 1.500 euros", "1500"),
        ("1500", "1.500"),
        ("1 234 567", "1234567"),
        ("1'234'567", "1234567"),
        ("1\u202f234,5 km", "1234.5"),
        ("３，４５６", "3456"),
        (r"$$\frac{1}{2}$$", "0.5"),
        (r"The answer is: \boxed{\frac{3}{4}}", "0.75"),
        ("1 1/2", "1.5"),
        ("2½", "2.5"),
        ("50 per cent", "0.5"),
        ("百分之五十", "50%"),
        ("-5 °C", "-5"),
        ("3,5 millones", "3500000"),
    ],
)
def test_a_right_number_is_right_however_it_is_written(answer: str, right: str) -> None:
    assert value("numeric", answer, right) == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Between 40 and 50", "45"),
        ("No answer", "0"),
        ("", "0"),
        ("No one knows", "1"),
        ("I have one idea", "1"),
        ("统一", "1"),
        ("0,500", "500"),
        ("in 2016 3/2 of them", "4035"),
        ("It is 41, not 40", "42"),
    ],
)
def test_a_wrong_number_is_wrong(answer: str, right: str) -> None:
    assert value("numeric", answer, right) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("one million two hundred thousand and six", 1_200_006),
        ("dos millones", 2_000_000),
        ("veintiún años", 21),
        ("三万五千", 35_000),
        ("二〇一六", 2016),
        ("一千零一夜", 1001),
        ("万一", None),
        ("seven, eight", 8),
        ("nothing of the kind", None),
    ],
)
def test_numbers_written_out(text: str, number: float | None) -> None:
    assert in_words(text) == number


@pytest.mark.parametrize(
    ("answer", "right", "labels"),
    [
        ('"card_arrival"', "card_arrival", CARDS),
        ("CardArrival", "card_arrival", CARDS),
        ("`lost_card`", "lost_card", CARDS),
        ('{"label": "refund"}', "refund", CARDS),
        ("The label is **refund** because the customer wants a refund", "refund", CARDS),
        ("It is not negative; it is positive", "positive", ("positive", "negative")),
        ("The claim is unsupported", "unsupported", ("supported", "unsupported")),
        ("Sí, claro", "sí", ("sí", "no")),
        ("si", "sí", ("sí", "no")),
        ("是的", "是", ("是", "否")),
        ("答案：正面", "正面", ("正面", "负面")),
        ("Ｂ", "B", ("A", "B", "C")),
        ("B) Paris", "B", ("A", "B", "C")),
    ],
)
def test_a_label_is_found_in_its_wrapping(answer: str, right: str, labels: tuple[str, ...]) -> None:
    assert value("label", answer, right, labels=labels) == 1


@pytest.mark.parametrize(
    ("answer", "right", "labels"),
    [
        ("card arrival", "card", CARDS),
        ("not positive", "positive", ("positive", "negative")),
        ("no es positivo", "positivo", ("positivo", "negativo")),
        ("不是正面", "正面", ("正面", "负面")),
        ("不是", "是", ("是", "否")),
        ("non-toxic", "toxic", ("toxic", "clean")),
        ("spam or ham", "spam", ("spam", "ham")),
        ("unhelpful", "helpful", ("helpful", "unhelpful")),
    ],
)
def test_another_label_a_denied_one_or_a_longer_word_is_not_it(
    answer: str, right: str, labels: tuple[str, ...]
) -> None:
    assert value("label", answer, right, labels=labels) == 0


@pytest.mark.parametrize(
    ("answer", "right", "found"),
    [
        ("It's Paris, not Lyon.", "Paris", 1),
        ("It is not Paris", "Paris", 0),
        ("It wasn't the Denver Broncos", "Denver Broncos", 0),
        ("It is not Lyon but Paris, not Paris, Texas", "Paris", 1),
        ("Not only Paris but all of France", "Paris", 1),
        ("not guilty", "not guilty", 1),
        ("No, París", "París", 1),
        ("No es París", "París", 0),
        ("París no, Lyon", "Lyon", 1),
        ("不是巴黎", "巴黎", 0),
        ("是巴黎，不是里昂。", "巴黎", 1),
        ("Paris’s mayor", "Paris", 1),
        ("Levis Stadium", "Levi's Stadium", 1),
        ("Bogota", "Bogotá", 1),
        ("ano", "año", 0),
        ("three hundred and eight points", "308", 1),
        ("They won 12 times", "twelve", 1),
        ("They won 12 times", "two", 0),
        ("one of the largest", "1", 0),
        ("150", "50", 0),
        ("在《黑豹》中，", "黑豹", 1),
        ("ＮＡＳＡ", "NASA", 1),
    ],
)
def test_a_phrase_is_found_where_it_is_said_and_not_denied(answer: str, right: str, found: int) -> None:
    assert value("contains", answer, right) == found


ANA = '{"name": "Ana", "age": 30, "tags": ["a", "b"]}'


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ('```json\n{"name": "Ana", "age": 30, "tags": ["b", "a"]}\n```', ANA, 1),
        ('Sure! {"age": "30", "name": "ana", "tags": ["a", "b"]} Anything else?', ANA, 1),
        ('{"name": "Ana", "age": 30, "tags": ["a", "b"],}', ANA, 1),
        ("{'name': 'Ana', 'age': 30, 'tags': ['a', 'b']}", ANA, 1),
        ('{"name": "Bob"}', '{"name": "Ana"}', 0),
        ('{"a": [1], "b": 1}', '{"a": [], "b": 1}', 0.5),
        ('{"a": [], "b": 1}', '{"a": [], "b": 1}', 1),
        ('{"a": true}', '{"a": 1}', 0),
        ('[{"n": 1, "m": 2}, {"n": 2, "m": 1}]', '[{"n": 1, "m": 1}, {"n": 2, "m": 2}]', 0.5),
        ('[{"n": 2, "m": 2}, {"n": 1, "m": 1}]', '[{"n": 1, "m": 1}, {"n": 2, "m": 2}]', 1),
    ],
)
def test_json_is_compared_by_what_belongs_together(answer: str, right: str, score: float) -> None:
    assert value("json", answer, right) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("```sql\nSELECT a FROM t WHERE b = 1;\n```", True),
        ("select t.a from t where t.b=1", True),
        ("SELECT a AS x FROM t WHERE b = 1 -- only these", True),
        ("To select the rows, use:\nSELECT a FROM t WHERE b = 1", True),
        ("With this query you get it:\n\nSELECT a FROM t WHERE b = 1;", True),
        ("SELECT a FROM t WHERE b = 2", False),
        ("I would select a from the table", False),
        ("", False),
    ],
)
def test_sql_is_found_among_words(answer: str, right: bool, tmp_path: Path) -> None:
    assert value("sql", answer, "SELECT a FROM t WHERE b = 1") == right
    database = tmp_path / "x.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table t (a text, b int)")
        connection.executemany("insert into t values (?, ?)", [("x", 1), ("y", 2)])
    connection.close()
    assert value(f"sql:{database}", answer, "SELECT a FROM t WHERE b = 1") == right


def test_no_query_is_not_right_where_the_gold_query_finds_nothing(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table t (a text)")
    connection.close()
    assert value(f"sql:{database}", "I don't know", "SELECT a FROM t") == 0
    assert value(f"sql:{database}", "SELECT a FROM t WHERE a = 'none'", "SELECT a FROM t") == 1


def test_a_semicolon_in_a_text_does_not_end_the_query() -> None:
    query = "SELECT a FROM t WHERE b = 'x; y'"
    assert value("sql", f"{query}; SELECT 2", query) == 1
    assert value("sql", "SELECT a FROM t WHERE b = 'x; z'", query) == 0


def test_a_keyword_in_quotes_is_a_value() -> None:
    assert value("sql", "SELECT a FROM t WHERE b = 'outer'", "SELECT a FROM t WHERE b = 'inner'") == 0
    assert value("sql", "SELECT a FROM t INNER JOIN u ON t.x = u.x", "SELECT a FROM t JOIN u ON t.x = u.x") == 1


def test_what_a_model_thinks_is_no_part_of_its_answer() -> None:
    scorer = parse_scorer("contains")
    assert outcome("<think>Lyon? No.</think>\nParis", gold("Paris"), scorer, FormSpec()).outcome == "correct"
    assert outcome("<think>Paris or Lyon?</think>\nLyon", gold("Paris"), scorer, FormSpec()).outcome == "wrong"
    assert outcome("<think>It may be Paris", gold("Paris"), scorer, FormSpec()).outcome == "wrong"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but the passages do not mention this.",
        "The text doesn't say.",
        "Not mentioned in the context.",
        "Lo siento, no tengo esa información.",
        "El texto no menciona ese dato.",
        "No se especifica en el documento.",
        "No lo sé.",
        "抱歉，我无法回答这个问题。",
        "文中没有提到。",
        "根据提供的资料，无法确定。",
        "我不知道。",
    ],
)
def test_declining_is_no_wrong_answer(answer: str) -> None:
    asked = row("?", "Paris")
    assert asked.messages == (Message("user", "?"),)
    assert outcome(answer, asked, parse_scorer("contains"), FormSpec()).outcome == "refused"


@pytest.mark.parametrize(
    "answer",
    [
        "The treaty was not signed in Paris but in Rome.",
        "There was no king at the time; it was a republic.",
        "No fue un rey, fue una reina.",
        "不是国王，是女王。",
        "The company could not be saved.",
        "Unknown Pleasures",
    ],
)
def test_a_wrong_answer_with_a_negation_is_no_refusal(answer: str) -> None:
    assert outcome(answer, row("?", "Madrid"), parse_scorer("contains"), FormSpec()).outcome == "wrong"

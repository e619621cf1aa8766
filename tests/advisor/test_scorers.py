"""Scorers see the right content whatever its wrapping, and do not see it where it is not."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.scorers import KINDS, parse_scorer
from advisor.scorers.labels import finder
from advisor.scorers.numbers import final_number, numbers, whole_number
from advisor.scorers.sql import canonical
from advisor.scorers.texts import longest_common
from core.errors import ConfigError, DataError, MissingExtra, UnknownName
from core.label_lists import split_labels
from core.rows import read_rows
from tests.advisor.rows import gold

LABELS = ("card_arrival", "card_linking", "card", "lost_or_stolen_card")


def _value(spec: str, answer: str, *answers: str, labels: tuple[str, ...] = ()) -> float:
    return parse_scorer(spec, labels).score(answer, gold(*answers)).value


@pytest.mark.parametrize(
    ("spec", "answer", "answers", "value"),
    [
        ("exact", "The Denver Broncos.", ("Denver Broncos",), 1),
        ("exact", "Denver Broncos won", ("Denver Broncos",), 0),
        ("contains", "It was Denver Broncos, in 2016.", ("Panthers", "the Denver Broncos"), 1),
        ("contains", "concatenate", ("cat",), 0),
        ("contains", "黑豹队赢了", ("黑豹队",), 1),
        ("contains", "", ("x",), 0),
        ("token_f1", "the Denver Broncos won", ("Denver Broncos",), 0.8),
        ("token_f1", "四次", ("四次",), 1),
        ("token_f1", "nothing shared", ("x",), 0),
        ("rouge_l", "police killed the gunman", ("police kill the gunman",), 2 / 3),  # Lin 2004's example, articles out
        ("regex", "Order 12", (r"^Order \d+$",), 1),
        (r"regex:Answer: (\w+)", "so. Answer: Paris", ("paris",), 1),
        (r"regex:Answer: (\w+)", "Paris", ("paris",), 0),
        (r"regex:^\d+$", "12", ("anything",), 1),
    ],
)
def test_word_scorers(spec: str, answer: str, answers: tuple[str, ...], value: float) -> None:
    assert _value(spec, answer, *answers) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("18", 18),
        ("#### 1,234.50", 1234.5),
        ("He has 5 left.\n#### 18", 18),
        (r"so \boxed{-7}", -7),
        ("The answer is 18. She has 3 left", 18),
        ("Answer: 3 + 4 = 7 for 2 people", 7),
        ("It takes 120/24 = 5 hours to read 120 pages.", 5),
        ("La respuesta es 3,5 kg.", 3.5),
        ("答案是 15%", 15),
        ("$5 million", 5e6),
        ("3万", 30000),
        ("９０,０００", 90000),
        ("1.234.567,8", 1234567.8),
        ("12,34,567", 1234567),
        ("1,2,3", 3),
        ("−5", -5),
        ("20 - 5", 5),
        ("no number", None),
    ],
)
def test_final_number(answer: str, value: float | None) -> None:
    found = final_number(answer)
    assert (found and found.value) == value


@pytest.mark.parametrize(
    ("spec", "answer", "answers", "right"),
    [
        ("numeric", "about 15 %", ("0.15",), True),
        ("numeric", "0.15", ("15%",), True),
        ("numeric", "It is 16 + 12 = $4 million.", ("4",), True),
        ("numeric", "18.0001", ("18",), False),
        ("numeric:0.001", "18.0001", ("18",), True),
        ("numeric:1%", "101", ("100",), True),
        ("numeric:1%", "102", ("100",), False),
        ("numeric", "none", ("18",), False),
        ("numeric", "7", ("6", "#### 7"), True),
    ],
)
def test_numeric_tolerance(spec: str, answer: str, answers: tuple[str, ...], right: bool) -> None:
    assert parse_scorer(spec).score(answer, gold(*answers)).content is right


@given(st.integers(-(10**9), 10**9))
def test_every_printed_integer_is_read_back(n: int) -> None:
    for text in (str(n), f"{n:,}", f"{n:.2f}", f"{n} km"):
        found = whole_number(text)
        assert found is not None
        assert found.value == n


@given(st.text(max_size=80))
def test_numbers_never_fail(text: str) -> None:
    assert all(number.value == number.value for number in numbers(text))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("card_arrival", {"card_arrival"}),
        ("The label is: Card-Arrival.", {"card_arrival"}),
        ("cardarrival", {"card_arrival"}),
        ("LOST OR STOLEN CARD", {"lost_or_stolen_card"}),
        ("the card", {"card"}),
        ("card_arrival, card_linking", {"card_arrival", "card_linking"}),
        ("not card_arrival but card_linking", {"card_linking"}),
        ("discard_arrivals", set()),
    ],
)
def test_the_longest_label_named_wins(answer: str, named: set[str]) -> None:
    assert finder(LABELS)(answer) == named


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("Yes, there is no doubt", {"yes"}),
        ("No. Yes would be wrong", {"no"}),
        ("Yes or no", {"yes", "no"}),
        ("yes, no", {"yes", "no"}),
        ("It is maybe", {"maybe"}),
    ],
)
def test_a_verdict_that_leads_the_answer_is_the_answer(answer: str, named: set[str]) -> None:
    assert finder(("yes", "no", "maybe"))(answer) == named


@pytest.mark.parametrize(
    ("answer", "named"),
    [("(B)", {"B"}), ("b", {"B"}), ("The answer is B because a cat", {"B"}), ("A dog", set()), ("B or C", {"B", "C"})],
)
def test_letters_are_labels_only_standing_alone(answer: str, named: set[str]) -> None:
    assert finder(tuple("ABCD"))(answer) == named


def test_ratings_out_of_five_name_one_label() -> None:
    assert finder(tuple("12345"))("4 out of 5") == finder(tuple("12345"))("4/5") == {"4"}


def test_labels_that_differ_in_case_alone_are_kept_apart() -> None:
    assert finder(("us", "US"))("US") == {"US"}


def test_a_list_of_all_labels_is_not_right() -> None:
    assert _value("label", ", ".join(LABELS), "card_arrival", labels=LABELS) == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("news, sport", 1),
        ('["sport", "news"]', 1),
        ("- News\n- Sport", 1),
        ("news", 2 / 3),
        ("news, sport, weather", 0.8),
        ("weather", 0),
    ],
)
def test_multi_label_is_f1_of_the_sets(answer: str, value: float) -> None:
    assert _value("multi_label", answer, "news, sport", labels=("news", "sport")) == pytest.approx(value)


@given(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=5))
def test_lists_of_labels_are_read_back(names: list[str]) -> None:
    for text in (json.dumps(names), ", ".join(names), "\n".join(f"- {name}" for name in names), "; ".join(names)):
        assert split_labels(text) == names


GOLD_JSON = '{"name": "Ann Lee", "age": 41, "tags": ["x", "y"], "member": true}'


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (GOLD_JSON, 1),
        ('Here:\n```json\n{"age": 41.0, "name": "ann lee", "tags": ["y", "x"], "member": true}\n```', 1),
        ('{"name": "Ann Lee", "age": 41, "tags": ["x", "y"], "member": true, "extra": 1}', 1),
        ('{"name": "Ann Lee", "age": 42, "tags": ["x", "y"], "member": true}', 0.8),
        ('{"name": "Ann Lee", "age": 41, "tags": ["x", "y"], "member": 1}', 0.8),
        ("Ann Lee is 41, tagged x and y.", 0.8),
        ("nothing", 0),
    ],
)
def test_json_fields(answer: str, value: float) -> None:
    assert _value("json", answer, GOLD_JSON) == pytest.approx(value)


def test_prose_with_all_values_is_right_content() -> None:
    assert parse_scorer("json").score("Ann, who is 41", gold('{"name": "Ann", "age": 41}')).content is True


def test_json_against_a_broken_schema_scores_nothing(tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}')
    assert _value(f"json:{schema}", '{"age": 41}', '{"age": 41}') == 1
    assert _value(f"json:{schema}", '{"age": "41"}', '{"age": 41}') == 0


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT MAX(t.PRICE) FROM shop AS t WHERE t.B = 'x' AND t.A > 5;",
        '```sql\nselect max( price )\nfrom shop\nwhere a > 5 and b = "x"\n```',
        "Here is the query: select max price from shop where shop.a > 5 and shop.b = x",
    ],
)
def test_sql_that_differs_in_writing_is_the_same(answer: str) -> None:
    assert _value("sql", answer, "SELECT MAX price FROM shop WHERE a > 5 AND b = 'x'") == 1


@pytest.mark.parametrize(
    "answer",
    ["select min(price) from shop where a > 5 and b = 'x'", "select max(price) from shop where a > 5", "", "I cannot"],
)
def test_sql_that_differs_in_meaning_is_not(answer: str) -> None:
    assert _value("sql", answer, "SELECT MAX price FROM shop WHERE a > 5 AND b = 'x'") == 0


def test_or_conditions_keep_their_order_and_joins_their_tables() -> None:
    assert canonical("select a from t where x = 1 or y = 2") != canonical("select a from t where y = 2 or x = 1")
    joined = canonical("select u.a from t as u join s as v on u.k = v.k")
    assert joined == canonical("select t.a from t join s on t.k = s.k")
    assert joined != canonical("select s.a from t join s on t.k = s.k")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript("create table item(name text, price real); insert into item values ('a', 1), ('b', 2)")
    connection.close()
    return path


def test_sql_is_compared_by_its_result_on_a_database(shop: Path) -> None:
    right = "select name from item where price > 1"
    assert _value(f"sql:{shop}", "SELECT name FROM item WHERE NOT price <= 1", right) == 1
    assert _value(f"sql:{shop}", "select name from item", right) == 0
    assert _value(f"sql:{shop}", "select nonsense", right) == 0
    assert (
        _value(f"sql:{shop}", "select name from item order by price desc", "select name from item order by price") == 0
    )


def test_a_query_cannot_write_or_hang(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.scorers.sql.TIMEOUT_S", 0.2)
    before = shop.read_bytes()
    for query in (
        "delete from item",
        "insert into item values ('c', 3)",
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
        "select zeroblob(100000000)",
    ):
        assert _value(f"sql:{shop}", query, "select name from item") == 0
    assert shop.read_bytes() == before


def test_a_gold_query_that_does_not_run_is_named(shop: Path) -> None:
    with pytest.raises(DataError, match="gold query does not run"):
        _value(f"sql:{shop}", "select 1", "select nothing from nowhere")


@pytest.mark.parametrize("spec", ["bleu", "chrf"])
def test_bleu_and_chrf_are_sacrebleus(spec: str) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (pip install 'tunefork[metrics]')")
    assert _value(spec, "the cat sat on the mat", "the cat sat on the mat") == pytest.approx(1)
    assert 0 < _value(spec, "the cat sat on a mat", "the cat sat on the mat") < 1
    assert _value(spec, "猫坐在垫子上面", "猫坐在垫子上面") == pytest.approx(1)


def test_bleu_without_sacrebleu_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.scorers.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"tunefork\[metrics\]"):
        parse_scorer("bleu")


@pytest.mark.slow
def test_similarity_is_higher_for_a_paraphrase(home: Path, encoder_folder: Path) -> None:
    scorer = parse_scorer("similarity")
    near = scorer.score("The car is fast.", gold("The automobile is quick.")).value
    far = scorer.score("Bananas are yellow.", gold("The automobile is quick.")).value
    assert near > far + 0.3
    assert scorer.score("Same.", gold("Same.")).value == pytest.approx(1, abs=1e-5)


def test_your_own_function_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorers.py").write_text(
        "def length(answer, row): return len(answer) == len(row.output)\n"
        "def broken(answer, row): return 1 / 0\n"
        "def loud(answer, row): return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)
    assert parse_scorer("my_scorers:length").score("abc", gold("xyz")).content is True
    with pytest.raises(ConfigError, match="failed on row '\\?': ZeroDivisionError"):
        _value("my_scorers:broken", "a", "b")
    with pytest.raises(ConfigError, match="gave 7"):
        _value("my_scorers:loud", "a", "b")
    with pytest.raises(ConfigError, match="no function 'lenght'; it has length, broken, loud"):
        parse_scorer("my_scorers:lenght")
    with pytest.raises(ConfigError, match="cannot import 'no_such'"):
        parse_scorer("no_such:f")


def test_graded_scorers_call_nothing_right_without_a_threshold() -> None:
    assert parse_scorer("token_f1").score("Denver Broncos won", gold("Denver Broncos")).content is None
    assert parse_scorer("token_f1>=0.8").score("Denver Broncos won", gold("Denver Broncos")).content is True
    assert parse_scorer("token_f1 >= 0.81").score("Denver Broncos won", gold("Denver Broncos")).content is False


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("token_fl", UnknownName, "did you mean token_f1"),
        ("numeric:abc", ConfigError, "the tolerance must be a number"),
        ("numeric:", ConfigError, "nothing follows the ':'; give TOLERANCE"),
        ("exact:3", ConfigError, "takes no argument"),
        ("regex:(", ConfigError, "not a regular expression"),
        ("token_f1>=2", ConfigError, "at most 1"),
        ("label", ConfigError, "no gold labels"),
        ("sql:absent.db", ConfigError, "no such SQLite file"),
        ("json:absent.json", ConfigError, "cannot be read"),
    ],
)
def test_a_scorer_that_cannot_be_is_refused(spec: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("(", r"\(")):
        parse_scorer(spec)


@given(a=st.lists(st.sampled_from("abc"), max_size=12), b=st.lists(st.sampled_from("abc"), max_size=12))
def test_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert longest_common(a, b) == table[-1][-1]


PLAIN = [
    name
    for name, kind in KINDS.items()
    if not kind.needs_labels and name not in ("regex", "similarity", "bleu", "chrf")
]


@pytest.mark.parametrize("name", PLAIN)
@given(answer=st.text(max_size=60), right=st.text(min_size=1, max_size=30))
def test_values_stay_between_0_and_1(name: str, answer: str, right: str) -> None:
    assert 0 <= parse_scorer(name).score(answer, gold(right)).value <= 1


@pytest.mark.parametrize("name", ["exact", "contains", "token_f1", "rouge_l"])
@given(right=st.text(min_size=1, max_size=30).filter(lambda text: text.strip() != ""))
def test_the_gold_answer_itself_is_right(name: str, right: str) -> None:
    from core.text import tokens

    if tokens(right):
        assert parse_scorer(name).score(f" {right}\n", gold(right)).value == 1


@pytest.mark.parametrize(
    ("file", "spec", "least"),
    [("gsm8k/test", "numeric", 1319), ("wikisql_sub/test", "sql", 2000), ("xquad/questions_zh", "contains", 1190)],
)
def test_gold_answers_of_public_sets_score_full_marks(shared_data: Path, file: str, spec: str, least: int) -> None:
    scorer = parse_scorer(spec)
    rows = read_rows(shared_data / f"{file}.jsonl", "evaluation")
    assert sum(scorer.score(row.output, row).value == 1 for row in rows) == least


def test_worked_solutions_end_on_the_gold_number(shared_data: Path) -> None:
    scorer = parse_scorer("numeric")
    with (shared_data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    right = sum(scorer.score(r["rationale"], gold(r["output"])).value == 1 for r in records)
    assert right / len(records) > 0.985

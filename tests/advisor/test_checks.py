"""Data checks find what is planted, stay silent on clean data, and take seconds for ten thousand rows."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.checks import Finding, check_data
from advisor.overlap import JACCARD, Pair, near_pairs, near_pairs_between, shared_windows, sketch
from advisor.pii import personal_data
from core.errors import DataError
from core.rows import Row, read_rows
from tests.advisor.rows import labelled, row

WORDS = (Path(__file__).parent.parent.parent / "LICENSE").read_text(encoding="utf-8").split()


def _sentence(seed: int, length: int = 12) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def _codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def _of(findings: list[Finding], code: str) -> Finding:
    return next(finding for finding in findings if finding.code == code)


def _labelled_pair() -> tuple[list[Row], list[Row]]:
    rows = [row(_sentence(i), ("yes", "no")[i % 2], id=f"e{i}") for i in range(40)]
    train = [row(_sentence(1000 + i), ("yes", "no")[i % 2], id=f"t{i}") for i in range(40)]
    return rows, train


def test_clean_data_has_no_findings() -> None:
    assert check_data(*_labelled_pair()) == []


def test_training_rows_that_hold_the_whole_eval_set_are_refused() -> None:
    rows, train = _labelled_pair()
    with pytest.raises(DataError, match="hold all 40 eval rows"):
        check_data(rows, [*train, *rows])


def test_leaked_items_are_named() -> None:
    rows, train = _labelled_pair()
    same = row(rows[3].input.upper() + "!", "no", id="t-same")
    near = row(rows[4].input.replace(rows[4].input.split()[0], "xx", 1), "yes", id="t-near")
    findings = check_data(rows, [*train, same, near])
    assert _of(findings, "leakage").items == ("e3",)
    assert "e4" in _of(findings, "near_leakage").items
    assert "1 of 40 eval inputs stand in the training rows too" in _of(findings, "leakage").text


def test_thirteen_words_in_a_row_are_a_leak_unless_they_are_boilerplate() -> None:
    rows, train = _labelled_pair()
    shared = _sentence(77, 24)
    rows.append(row(f"{_sentence(78, 30)} {shared} {_sentence(79, 30)}", "yes", id="e-long"))
    leak = row(f"{shared} {_sentence(80, 40)}", "no", id="t-long")
    assert _of(check_data(rows, [*train, leak]), "near_leakage").items == ("e-long",)
    templated = [row(f"{shared} {_sentence(900 + i, 40)}", ("yes", "no")[i % 2], id=f"b{i}") for i in range(9)]
    assert "near_leakage" not in _codes(check_data(rows, [*train, *templated]))


def test_duplicates_within_a_set_are_counted() -> None:
    rows, train = _labelled_pair()
    findings = check_data([*rows, row(rows[0].input + ".", "yes", id="again")], train)
    assert _of(findings, "eval_duplicates").items == ("again",)


def test_conflicting_gold_is_found_across_the_sets() -> None:
    rows, train = _labelled_pair()
    findings = check_data(rows, [*train, row(rows[0].input, "no", id="t-other")])
    assert _of(findings, "conflicting_gold").examples == ("e0", "t-other")
    assert _of(findings, "conflicting_gold").items == ("e0",)


def test_shared_documents_and_clusters_are_found() -> None:
    rows, train = _labelled_pair()
    rows.append(row("one more question about ants", "yes", id="e-doc", context_ids=("d1",), cluster="ants"))
    train.append(row("quite another thing on bees", "no", id="t-doc", context_ids=("d1",), cluster="ants"))
    found = [finding for finding in check_data(rows, train) if finding.code == "entity_split"]
    assert [finding.items for finding in found] == [("e-doc",), ("e-doc",)]


def test_imbalance_rare_and_unseen_labels() -> None:
    train = labelled({"a": 90, "b": 20, "c": 4})
    rows = [row("wholly new question one", "a", id="e1"), row("some other matter", "z", id="e2")]
    findings = check_data(rows, train)
    assert "always answering it would score 79%" in _of(findings, "imbalance").text
    assert _of(findings, "rare_labels").text.endswith("c")
    assert _of(findings, "unseen_labels").items == ("e2",)


def test_outputs_that_break_the_kind_are_found() -> None:
    train = [row(_sentence(i), json.dumps({"a": i}), id=f"t{i}") for i in range(30)]
    train.append(row(_sentence(99), '{"a": 1', id="broken"))
    assert _of(check_data([], train), "unparseable").examples == ("broken",)


def test_gold_answers_without_the_learnt_form_are_found() -> None:
    train = [row(_sentence(i), f"INV-{i:04d}", id=f"t{i}") for i in range(30)]
    rows = [row(_sentence(500), "INV-9999", id="good"), row(_sentence(501), "invoice 12", id="odd")]
    assert _of(check_data(rows, train), "gold_form").items == ("odd",)


def test_languages() -> None:
    english = [row(f"How do I know if the card {i} is on its way to me?", "x", id=f"e{i}") for i in range(20)]
    spanish = [row(f"¿Cuántos puntos de la tarjeta {i} se ven en la cuenta?", "x", id=f"s{i}") for i in range(20)]
    mixed = check_data([*english, *spanish])
    assert "en 50%, es 50%" in _of(mixed, "languages").text
    apart = check_data(spanish, english)
    assert "that no training input is in (es)" in _of(apart, "languages").text


def test_rows_without_gold_are_counted() -> None:
    rows, _ = _labelled_pair()
    assert _of(check_data([*rows, row("?", id="bare")]), "no_gold").items == ("bare",)


CORPUS = [
    ("d1", "The Denver Broncos won Super Bowl 50. Who won Super Bowl 50 in Santa Clara? The Denver Broncos did."),
    ("d2", "黑豹队的防守丢了 308 分。"),
]


def test_the_corpus_is_searched_for_gold_answers_and_questions() -> None:
    rows = [
        row("Which team was it?", "denver broncos", id="held"),
        row("Who won Super Bowl 50 in Santa Clara?", "the Denver Broncos", id="faq"),
        row("谁的防守？", "黑豹队", id="chinese"),
        row("Which town?", "Lima", "Lima, Peru", id="absent"),
        row("Who lost?", answerable=False, id="unanswerable"),
    ]
    findings = check_data(rows, (), CORPUS)
    assert _of(findings, "not_in_corpus").items == ("absent",)
    assert "1 of 4 eval rows" in _of(findings, "not_in_corpus").text
    assert _of(findings, "question_in_corpus").items == ("faq",)


def test_labels_are_not_looked_for_in_the_corpus() -> None:
    assert check_data(_labelled_pair()[0], (), [("d", "nothing of the kind")]) == []


def test_fact_teaching_rows_are_flagged_and_behaviour_is_not() -> None:
    facts = [
        row(f"Who leads company {_sentence(i, 2)}?", f"{WORDS[50 + i]} {WORDS[150 + i]}son", id=f"f{i}")
        for i in range(30)
    ]
    assert _of(check_data([], facts), "fact_teaching").count > 20
    copied = [
        row(f"Name the leader: {w} {v}son leads {_sentence(i, 3)}.", f"{w} {v}son", id=f"c{i}")
        for i, (w, v) in enumerate(zip(WORDS[50:80], WORDS[150:180], strict=True))
    ]
    assert "fact_teaching" not in _codes(check_data([], copied))
    sums = [row(f"Add {i} apples and {2 * i + 7} pears.", str(3 * i + 7), id=f"s{i}") for i in range(30)]
    assert "fact_teaching" not in _codes(check_data([], sums))


@pytest.mark.parametrize(
    ("name", "flagged"),
    [("banking77/train", False), ("gsm8k/train", False), ("wikisql_sub/train", False), ("xquad/questions_en", True)],
)
def test_fact_teaching_on_public_sets(shared_data: Path, name: str, flagged: bool) -> None:
    train = read_rows(shared_data / f"{name}.jsonl", "training")[:1500]
    assert ("fact_teaching" in _codes(check_data([], train))) is flagged


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to ann.lee@example.org", {"e-mail address"}),
        ("call +44 20 7946 0958 now", {"phone number"}),
        ("call (555) 123-4567", {"phone number"}),
        ("pay with 4111 1111 1111 1111", {"card number"}),
        ("pay with 4111 1111 1111 1112", set()),
        ("to GB82 WEST 1234 5698 7654 32 please", {"IBAN"}),
        ("my number is 123-45-6789", {"US social security number"}),
        ("11010519491231002X", {"Chinese identity number"}),
        ("DNI 12345678Z", {"Spanish identity number"}),
        ("DNI 12345678A", set()),
        ("key sk-abcdefghijklmnopqrstuvwx", {"secret key"}),
        ("It rose +54.103 points to 1,234,567 in 2024-05-06 at 10:30.", set()),
    ],
)
def test_personal_data(text: str, kinds: set[str]) -> None:
    assert personal_data(text) == kinds


def test_personal_data_is_counted_and_not_shown() -> None:
    rows, _ = _labelled_pair()
    finding = _of(check_data([*rows, row("I am ann@example.org, and you?", "yes", id="p")]), "personal_data")
    assert finding.examples == ("p",)
    assert "ann@" not in finding.text


TEXTS = st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=12)


@given(TEXTS)
def test_near_pairs_are_truly_near(texts: list[str]) -> None:
    sketches = [sketch(text) for text in texts]
    for left, right in near_pairs(sketches):
        a, b = set(sketches[left].shingles.tolist()), set(sketches[right].shingles.tolist())
        assert right < left
        assert len(a & b) / len(a | b) >= JACCARD


def test_equal_texts_are_near_and_others_are_not() -> None:
    texts = [_sentence(1), _sentence(2), _sentence(1)]
    assert near_pairs([sketch(text) for text in texts]) == [Pair(2, 0)]
    assert near_pairs_between([sketch(_sentence(2))], [sketch(text) for text in texts]) == [Pair(0, 1)]
    assert near_pairs([sketch(""), sketch("")]) == []


def test_near_duplicates_are_found_nearly_always() -> None:
    base = [_sentence(i, 40) for i in range(300)]
    changed = [text.replace(text.split()[7], "zz", 1) for text in base]
    assert len(near_pairs_between([sketch(t) for t in changed], [sketch(t) for t in base])) >= 297


def test_windows_shorter_than_thirteen_are_not_shared() -> None:
    shared = _sentence(5, 12).split()
    assert shared_windows([[*shared, "a"]], [[*shared, "b"]]) == []
    assert shared_windows([["x", *shared, "a"]], [[*shared, "a", "y"]]) == [Pair(0, 0)]


def test_ten_thousand_rows_take_seconds() -> None:
    train = [row(_sentence(i, 15), ("yes", "no", "maybe")[i % 3], id=f"t{i}") for i in range(9000)]
    rows = [row(_sentence(10**6 + i, 15), "yes" if i % 2 else "no", id=f"e{i}") for i in range(1000)]
    start = time.process_time()
    check_data(rows, train)
    assert time.process_time() - start < 10


def test_known_leak_of_banking77_is_found(shared_data: Path) -> None:
    rows = read_rows(shared_data / "banking77" / "test.jsonl", "evaluation")
    train = read_rows(shared_data / "banking77" / "train.jsonl", "training")
    inputs = {r.input.strip() for r in train}
    verbatim = {r.id for r in rows if r.input.strip() in inputs}
    assert len(verbatim) == 6
    assert set(_of(check_data(rows, train), "leakage").items) >= verbatim


def test_coverage_of_xquad_is_nearly_whole(shared_data: Path) -> None:
    for code in ("en", "es", "zh"):
        rows = read_rows(shared_data / "xquad" / f"questions_{code}.jsonl", "evaluation")
        with (shared_data / "xquad" / f"corpus_{code}.jsonl").open(encoding="utf-8") as file:
            corpus = [(d["id"], d["text"]) for d in map(json.loads, file)]
        missing = [f.count for f in check_data(rows, (), corpus) if f.code == "not_in_corpus"]
        assert sum(missing) <= 0.01 * len(rows)

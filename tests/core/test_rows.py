"""Rows are read alike from every format, and broken files are refused with their line."""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import DataError, MissingExtra
from core.rows import Row, read_rows
from core.types import Message

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _jsonl(folder: Path, *rows: Any) -> Path:
    return _file(folder, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _one(folder: Path, **fields: Any) -> Row:
    return read_rows(_jsonl(folder, fields), "evaluation")[0]


@pytest.mark.parametrize("name", ["input", "question", "prompt", "Question", " query "])
def test_input_goes_by_the_usual_names(tmp_path: Path, name: str) -> None:
    assert _one(tmp_path, **{name: "Who?", "output": "me"}).messages == (Message("user", "Who?"),)


@pytest.mark.parametrize("name", ["output", "answers", "answer", "target", "completion", "label"])
def test_gold_goes_by_the_usual_names(tmp_path: Path, name: str) -> None:
    assert _one(tmp_path, input="Who?", **{name: "me"}).answers == ("me",)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (["a", "b", "a"], ("a", "b")),
        (18, ("18",)),
        (18.0, ("18",)),
        (0.5, ("0.5",)),
        (True, ("true",)),
        ({"city": "Köln"}, ('{"city": "Köln"}',)),
        ({"text": ["a", "b"], "answer_start": [1, 2]}, ("a", "b")),
        ("  a  ", ("a",)),
    ],
)
def test_gold_answers_of_every_type_become_texts(tmp_path: Path, value: Any, answers: tuple[str, ...]) -> None:
    assert _one(tmp_path, input="Who?", answers=value).answers == answers


def test_labels_are_one_answer(tmp_path: Path) -> None:
    assert _one(tmp_path, text="...", labels=["news", "sport"]).answers == ("news, sport",)


def test_list_of_objects_is_one_json_answer(tmp_path: Path) -> None:
    assert _one(tmp_path, input="...", output=[{"a": 1}, {"a": 2}]).answers == ('[{"a": 1}, {"a": 2}]',)


def test_optional_fields_are_kept(tmp_path: Path) -> None:
    row = _one(
        tmp_path, id=7, input="Who?", output="me", context_ids=["d1"], context="text", cluster=3, tags=["x", "y"]
    )
    assert (row.id, row.context_ids, row.context, row.cluster, row.tags) == ("7", ("d1",), ("text",), "3", ("x", "y"))


def test_chat_rows_end_with_their_gold(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "me"},
    ]
    row = _one(tmp_path, messages=messages)
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "user"]
    assert (row.input, row.output) == ("Who?", "me")


def test_answers_field_beats_the_last_assistant_turn(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "me"}]
    row = _one(tmp_path, messages=messages, answers=["I"])
    assert (len(row.messages), row.answers) == (1, ("I",))


def test_instruction_stands_before_its_input(tmp_path: Path) -> None:
    assert _one(tmp_path, instruction="Sort.", input="b a", output="a b").input == "Sort.\n\nb a"
    assert _one(tmp_path, instruction="Sing.", input="", output="la").input == "Sing."


def test_system_prompt_is_a_system_message(tmp_path: Path) -> None:
    assert _one(tmp_path, system="Be brief.", input="Who?", output="me").messages[0] == Message("system", "Be brief.")


@pytest.mark.parametrize(
    "fields",
    [
        {"answerable": False},
        {"answerable": "false"},
        {"is_impossible": True},
        {"answers": {"text": [], "answer_start": []}},
    ],
)
def test_unanswerable_rows_need_no_gold(tmp_path: Path, fields: dict[str, Any]) -> None:
    row = _one(tmp_path, input="Who?", **fields)
    assert (row.answerable, row.answers) == (False, ())


def test_a_row_without_gold_among_others_is_kept_unlabelled(tmp_path: Path) -> None:
    rows = read_rows(_jsonl(tmp_path, {"input": "a", "output": "b"}, {"input": "c"}), "evaluation")
    assert rows[1].answers == ()
    with pytest.raises(DataError, match="no gold answer"):
        _ = rows[1].output


def test_bom_crlf_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    path = _file(
        tmp_path, "rows.jsonl", b'\xef\xbb\xbf{"input":"a","output":"b"}\r\n\r\n{"input":"c","output":"d"}\r\n'
    )
    assert [(row.input, row.line) for row in read_rows(path, "training")] == [("a", 1), ("c", 3)]


def test_unusual_line_ends_inside_texts_do_not_end_a_row(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.jsonl", '{"input":"a\u2028b\u0085c","output":"d"}\n')
    assert read_rows(path, "training")[0].input == "a\u2028b\u0085c"


def test_json_array_rows_know_their_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.json", '[\n {"input":"a","output":"b"},\n {"input":"c",\n  "output":"d"}\n]\n')
    assert [row.line for row in read_rows(path, "training")] == [2, 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'question,answers\n"a, ""b""","[""x"", ""y""]"\n'),
        ("rows.csv", 'question;answers\n"a, ""b""";[\'x\', \'y\']\n'),
        ("rows.tsv", 'question\tanswers\na, "b"\t["x", "y"]\n'),
    ],
    ids=["comma", "semicolon", "tab"],
)
def test_tables_hold_lists_in_cells(tmp_path: Path, name: str, content: str) -> None:
    row = read_rows(_file(tmp_path, name, content), "evaluation")[0]
    assert (row.input, row.answers) == ('a, "b"', ("x", "y"))


def test_csv_line_is_where_the_record_starts(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.csv", 'input,output\n"two\nlines",b\nc,d\n')
    assert [row.line for row in read_rows(path, "training")] == [2, 4]


def test_long_cells_are_read(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.csv", f"input,output\n{'x' * 200_000},b\n")
    assert len(read_rows(path, "training")[0].input) == 200_000


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'tunefork[parquet]')")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a", "b"], "answers": [["x", "y"], ["z"]], "cluster": ["k", None]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    rows = read_rows(tmp_path / "rows.parquet", "evaluation")
    assert [(r.input, r.answers, r.cluster, r.line) for r in rows] == [
        ("a", ("x", "y"), "k", 1),
        ("b", ("z",), None, 2),
    ]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"tunefork\[parquet\]"):
        read_rows(_file(tmp_path, "rows.parquet", b"PAR1"), "evaluation")


def test_made_ids_survive_reordering_and_differ(tmp_path: Path) -> None:
    rows = [{"input": text, "output": "b"} for text in "abcab"]
    before = {(row.id, row.input) for row in read_rows(_jsonl(tmp_path, *rows), "training")}
    random.Random(1).shuffle(rows)
    after = {(row.id, row.input) for row in read_rows(_jsonl(tmp_path, *rows), "training")}
    assert before == after
    assert len({row_id for row_id, _ in before}) == 5


GOOD = '{"input":"a","output":"b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "line", "text"),
    [
        ("r.jsonl", "", None, "is empty"),
        ("r.jsonl", " \n\t\n", None, "is empty"),
        ("r.jsonl", b"\xef\xbb\xbf", None, "is empty"),
        ("r.jsonl", b"PK\x03\x04\x00\x00", None, "binary"),
        ("r.csv", "input,output\na,b".encode("utf-16"), None, "UTF-16"),
        ("r.jsonl", GOOD.encode() + b'{"input":"caf\xe9","output":"b"}', 2, "not UTF-8 (byte 0xe9)"),
        ("r.jsonl", GOOD + '{"input": oops}\n', 2, "not valid JSON"),
        ("r.jsonl", GOOD + "[1, 2]\n", 2, "must be a JSON object"),
        ("r.jsonl", "[" * 100_000, 1, "nested too deep"),
        ("r.jsonl", '{"input":"a","output":' + "9" * 5000 + "}", 1, "too many digits"),
        ("r.jsonl", '{"input":"a\\ud800","output":"b"}', 1, "surrogate"),
        ("r.json", '{\n "rows": [{"input": "a"}]\n}', 1, "one JSON object over many lines"),
        ("r.jsonl", GOOD + '{\n "input": "a"\n}\n{\n "input": "b"\n}\n', 2, "one JSON object over many lines"),
        ("r.json", '{\n "input": "a",\n "output": b\n}', 3, "in the object that begins on line 1"),
        ("r.jsonl", GOOD + '{"input": "a",\n' + GOOD, 2, "not valid JSON"),
        ("r.json", '[{"input":"a","output":"b"},\n {"input":"c" "output":"d"}]', 2, "not valid JSON"),
        ("r.json", '[{"input":"a","output":"b"}', 1, "']' is missing"),
        ("r.json", "[]", None, "has no rows"),
        ("r.csv", "input,output\n", None, "header and no rows"),
        ("r.csv", "input,output\na,b\nc,d,e\n", 3, "has 3 values, the header names 2"),
        ("r.csv", 'input,output\na,b\n"c,d\n', 3, "does not end"),
        ("r.csv", "input,input\na,b\n", 1, "twice"),
        ("r.xlsx", "whatever", None, "cannot tell the format"),
        ("r.jsonl", '{"input":3,"output":"b"}', 1, "must be text, not a number"),
        ("r.jsonl", '{"input":"  ","output":"b"}', 1, "'input' is empty"),
        ("r.jsonl", '{"id":[1],"input":"a","output":"b"}', 1, "'id' must be text, not a list"),
        ("r.jsonl", '{"input":"a","output":NaN}', 1, "not a number one can answer with"),
        ("r.jsonl", '{"input":"a","answerable":"perhaps"}', 1, "must be true or false, not 'perhaps'"),
        ("r.jsonl", '{"messages":[{"role":"tool","content":"x"}]}', 1, "messages[0] has the role 'tool'"),
        ("r.jsonl", '{"messages":[{"role":"user","content":null}]}', 1, "`content` must be text, not null"),
        ("r.jsonl", '{"messages":[{"role":"assistant","content":"x"}]}', 1, "must end with a user turn"),
        ("r.jsonl", '{"quesiton":"a","output":"b"}', 1, "did you mean `question` instead of `quesiton`?"),
        (
            "r.jsonl",
            '{"x":"a","y":"b"}',
            1,
            "wanted `input`, `question`, `prompt` or `messages`; fields seen: `x`, `y`",
        ),
        ("r.jsonl", '{"input":"a","anwser":"b"}', None, "did you mean `answer` instead of `anwser`?"),
        (
            "r.jsonl",
            GOOD + '\n{"id":"k","input":"a","output":"b"}\n{"id":"k","input":"c","output":"d"}',
            4,
            "is on line 3",
        ),
    ],
)
def test_a_broken_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, text: str
) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read_rows(path, "evaluation")
    assert text in str(caught.value)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "absent.jsonl", "evaluation")
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path, "evaluation")


@pytest.mark.parametrize("fields", [{"output": ""}, {"answers": []}, {}, {"answerable": False}])
def test_training_rows_need_an_output(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = _jsonl(tmp_path, {"input": "a", "output": "b"}, {"input": "c", **fields})
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*output"):
        read_rows(path, "training")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_jsonl_csv_and_array_give_the_same_rows(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    records = [{"id": str(i), "input": a, "output": b} for i, (a, b) in enumerate(pairs)]
    jsonl = _file(tmp_path, "a.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in records))
    array = _file(tmp_path, "a.json", json.dumps(records, indent=1))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "input", "output"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
    read = [
        [(r.id, r.input, r.answers) for r in read_rows(path, "training")] for path in (jsonl, array, tmp_path / "a.csv")
    ]
    assert read[0] == read[1] == read[2] == [(str(i), a, (b.strip(),)) for i, (a, b) in enumerate(pairs)]


def test_ten_thousand_rows_take_under_a_second(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, *({"id": i, "input": f"question {i}", "answers": ["a", "b"]} for i in range(10_000)))
    start = time.process_time()
    assert len(read_rows(path, "evaluation")) == 10_000
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("name", "rows", "unanswerable"),
    [("xquad/questions_zh", 1190, 0), ("squad2_dev_half/questions_dev", 6078, 3168), ("banking77/test", 3080, 0)],
)
def test_public_sets_are_read_whole(shared_data: Path, name: str, rows: int, unanswerable: int) -> None:
    read = read_rows(shared_data / f"{name}.jsonl", "evaluation")
    assert (len(read), sum(not row.answerable for row in read)) == (rows, unanswerable)


def test_questions_and_answers_go_by_spanish_and_chinese_names_too(tmp_path: Path) -> None:
    rows = read_rows(
        _jsonl(tmp_path, {"Pregunta": "¿Qué?", "Respuesta": "Nada"}, {"问题": "谁?", "答案": "我"}), "training"
    )
    assert [(row.input, row.output) for row in rows] == [("¿Qué?", "Nada"), ("谁?", "我")]


_TOOLS = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "content": "4 degrees"},
    {"role": "assistant", "content": "Cold."},
]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"ticket": "a", "queue": "b"},
            "fields seen: `ticket`, `queue`; rename the one that holds what is asked to `input`",
        ),
        ({"input": "a", "queue": "b"}, "rename the one that holds the answer to `output`"),
        ({"input": "a", "anwser": "b"}, "did you mean `answer` instead of `anwser`?"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs; .*--preferences FILE"),
        ({"messages": _TOOLS}, r"messages\[1\] is a tool call; tools are not learnt or measured"),
        ({"messages": _TOOLS[2:]}, r"the role 'tool'; wanted system, user or assistant; tools are not"),
    ],
)
def test_a_row_that_lacks_what_is_wanted_says_what_to_do(tmp_path: Path, row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_rows(_jsonl(tmp_path, row), "training")

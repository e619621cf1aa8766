"""`tunefork tune NAME --check`: everything that is wrong or odd in the training rows, in one go, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.rows import Row
from core.workspace import Workspace

pytestmark = pytest.mark.usefixtures("encoder_folder")


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def _chat(question: str, answer: str | None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _checked(capsys: pytest.CaptureFixture[str], *flags: str, rc: int = 0) -> dict[str, Any]:
    assert main(["tune", "x", "--check", "--json", *flags]) == rc
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_all_faults_of_a_chat_file_are_told_at_once_and_nothing_is_trained(
    workspace: Workspace, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_chat(f"tell me of {n}", f"a tale of {n}") for n in range(6)]
    rows[2] = _chat("and of this", None)
    rows[4] = {"messages": [{"role": "user", "content": "hi"}]}
    train = _write(tmp_path / "chat.jsonl", rows)
    report = _checked(capsys, "--train", str(train), rc=2)
    assert not report["ready"]
    assert (report["form"], report["rows"]) == ("chat", 4)
    errors = {f["code"]: f["lines"] for f in report["findings"] if f["severity"] == "error"}
    assert errors == {"missing_content": [3], "example_missing_assistant_message": [5]}
    assert workspace.names() == []
    assert main(["tune", "x", "--train", str(train)]) == 2
    assert f"{train}:3: 1 of 6 rows have a message whose content is empty" in capsys.readouterr().err


def test_what_the_reader_can_use_does_not_stop_a_training(
    home: Path, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_chat(f"tell me of {n}", f"a tale of {n}") for n in range(5)]
    rows[1]["messages"].insert(0, {"role": "system", "content": ""})
    rows.append({"prompt": "tell me of 6", "completion": "a tale of 6"})
    report = _checked(capsys, "--train", str(_write(tmp_path / "chat.jsonl", rows)))
    assert report["ready"] and report["rows"] == 6
    assert {f["code"]: f["lines"] for f in report["findings"]} == {"missing_content": [2], "missing_messages_list": [6]}


def test_tokens_and_cost_of_a_lora_training_are_by_the_models_template(
    home: Path, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tuning.examples import TrainingTokenizer, make_example

    rows = [{"input": f"tell me of {n}", "output": f"a tale of {n}"} for n in range(40)]
    train = _write(tmp_path / "rows.jsonl", rows)
    report = _checked(capsys, "--train", str(train), "--epochs", "3")
    from core.rows import read_rows

    tokenizer = TrainingTokenizer(starter_folder)
    lengths = [len(make_example(r, tokenizer, "").ids) for r in read_rows(train, "training")]
    assert report["method"] == "lora"
    assert report["tokens"]["total"] == sum(lengths)
    assert report["tokens"]["longest"] == max(lengths)
    assert report["tokens"]["context"] == 8192
    assert report["cost"]["tokens"] == 3 * sum(lengths)
    assert report["cost"]["steps"] == 30
    assert 0.5e9 < report["cost"]["memory_bytes"] < 3e9
    assert report["languages"] == {"en": 1.0} or report["languages"] == {}


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_labels_are_counted_in_every_file_format(
    home: Path, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    rows = [{"input": r.input, "output": r.output} for r in card_rows]
    path = tmp_path / f"rows.{form}"
    if form == "jsonl":
        _write(path, rows)
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(rows)
        frame.to_csv(path, index=False) if form == "csv" else frame.to_parquet(path)
    report = _checked(capsys, "--train", str(path))
    assert report["method"] == "head"
    assert report["labels"] == {"card_lost": 8, "exchange_rate": 8, "top_up": 8}
    assert report["tokens"]["context"] == 256


def test_rows_of_the_eval_set_are_found(
    home: Path, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"input": r.input, "output": r.output} for r in card_rows]
    train, held_out = _write(tmp_path / "train.jsonl", rows), _write(tmp_path / "eval.jsonl", rows[3:5])
    toml = tmp_path / "use_case.toml"
    toml.write_text(f'name = "x"\ntrain = "{train}"\neval = "{held_out}"\n')
    assert main(["tune", str(toml), "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    leak = next(f for f in report["findings"] if f["code"] == "leakage")
    assert leak["lines"] == [4, 5]


def test_rows_over_the_context_stop_a_training_unless_they_may_be_left_out(
    home: Path, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"input": f"tell me of {n}", "output": f"a tale of {n}"} for n in range(4)]
    rows.append({"input": "word " * 9000, "output": "long"})
    train = _write(tmp_path / "rows.jsonl", rows)
    strict = _checked(capsys, "--train", str(train), "--method", "lora", rc=2)
    assert [f["severity"] for f in strict["findings"] if f["code"] == "too_long"] == ["error"]
    lenient = _checked(capsys, "--train", str(train), "--method", "lora", "--skip-long")
    assert [f["severity"] for f in lenient["findings"] if f["code"] == "too_long"] == ["warning"]
    assert lenient["tokens"]["over"] == 1


def test_the_terminal_gets_a_short_account(
    home: Path, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"input": r.input, "output": r.output} for r in [*card_rows, card_rows[0]]]
    assert main(["tune", "x", "--check", "--train", str(_write(tmp_path / "t.jsonl", rows))]) == 0
    out = capsys.readouterr().out
    assert out.startswith("t.jsonl: 25 usable rows, 0 errors, 1 warning\n")
    assert "duplicates: 1 of 25 rows repeats an earlier one" in out
    assert "labels   3, from 9 rows (card_lost) down to 8" in out


def test_too_little_memory_is_refused_before_the_start(
    home: Path,
    starter_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tuning import cost

    monkeypatch.setattr(cost, "available_memory", lambda: 10**8)
    rows = [{"input": f"tell me of {n}", "output": f"a tale of {n}"} for n in range(4)]
    assert main(["tune", "x", "--train", str(_write(tmp_path / "t.jsonl", rows)), "--method", "lora"]) == 2
    assert "GB of memory, 0.1 GB are free; try shorter rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "taught"),
    [("the mayor is Amara Quill{n} since 19{n}", True), ("please tell me more about office {n}", False)],
)
def test_the_share_of_fact_teaching_rows_is_told(
    home: Path, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, taught: bool
) -> None:
    rows = [{"input": f"who runs office {n} of the town", "output": output.format(n=n)} for n in range(40, 70)]
    assert (
        main(["tune", "x", "--check", "--json", "--method", "lora", "--train", str(_write(tmp_path / "t.jsonl", rows))])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["fact_teaching"] == (1.0 if taught else 0.0)
    assert ("fact_teaching" in [found["code"] for found in report["findings"]]) is taught


def test_several_labels_a_row_are_counted_each_and_numbers_not_at_all(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [("a", "b"), ("b", "c"), ("a", "c"), ("a", "b"), ("b", "c"), ("a", "c"), ("a", "rare")]
    rows = [{"input": f"case {n}", "output": ", ".join(pair)} for n, pair in enumerate(pairs)]
    several = _checked(capsys, "--train", str(_write(tmp_path / "several.jsonl", rows)), "--task", "multi")
    assert several["labels"] == {"a": 5, "b": 4, "c": 4, "rare": 1}
    (rare,) = (f for f in several["findings"] if f["code"] == "rare_labels")
    assert "3 of 4 labels" in rare["text"]
    numbers = [{"input": f"case {n}", "output": str(n % 3)} for n in range(9)]
    counted = _checked(capsys, "--train", str(_write(tmp_path / "numbers.jsonl", numbers)), "--task", "number")
    assert counted["labels"] is None
    assert counted["findings"] == []


def test_a_chat_that_ends_with_the_user_says_so(
    workspace: Workspace, starter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_chat(f"tell me of {n}", f"a tale of {n}") for n in range(4)]
    rows[1]["messages"].append({"role": "user", "content": "and then?"})
    report = _checked(capsys, "--train", str(_write(tmp_path / "chat.jsonl", rows)), "--method", "lora", rc=2)
    (fault,) = (f for f in report["findings"] if f["severity"] == "error")
    assert "the last message has to be the assistant's" in fault["text"]
    assert fault["lines"] == [2]


def test_answers_that_end_as_shorter_ones_do_were_not_cut_and_those_of_one_length_that_do_not_were(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def codes(ends: list[str]) -> list[str]:
        rows = [
            {"input": f"tell {n}", "output": f"{n:04d} " + "tale " * (40 + n // 4) + end} for n, end in enumerate(ends)
        ]
        flags = ["--train", str(_write(tmp_path / "t.jsonl", rows)), "--method", "lora"]
        return [found["code"] for found in _checked(capsys, *flags)["findings"]]

    signed = "I remain your servant"
    assert "truncated_answers" not in codes([signed] * 8)
    assert "truncated_answers" in codes([f"{c * 20}." for c in "abcdefgh"])


def test_where_nothing_can_be_used_no_method_is_claimed_and_a_lone_fault_is_told_in_the_singular(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"ticket": f"t{n}", "queue": "a"} for n in range(3)]
    assert main(["tune", "x", "--check", "--train", str(_write(tmp_path / "t.jsonl", rows))]) == 2
    said = capsys.readouterr()
    assert "method:" not in said.err
    assert "rename the one that holds what is asked to `input`" in said.out
    assert "and 1 more kind of fault" in said.err

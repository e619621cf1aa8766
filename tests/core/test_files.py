"""Files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ArtifactError
from core.files import append_jsonl, read_json, read_own_jsonl, staged_folder, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("core.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_damaged_json_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    path.write_text('{"route": ', encoding="utf-8")
    with pytest.raises(ArtifactError, match="damaged"):
        read_json(path)


def test_a_torn_last_line_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "te')
    append_jsonl(path, {"n": 3})
    assert [row["n"] for row in read_own_jsonl(path)] == [1, 3]


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3), max_size=5))
def test_jsonl_round_trips_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    rows = [json.loads(json.dumps(row)) for row in rows if all(_encodable(k + v) for k, v in row.items())]
    for row in rows:
        append_jsonl(path, row)
    assert read_own_jsonl(path) == rows


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_a_staged_folder_vanishes_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), staged_folder(tmp_path / "v1") as staging:
        (staging / "half").write_text("x", encoding="utf-8")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_staged_folder_appears_whole(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "v1") as staging:
        (staging / "file").write_text("x", encoding="utf-8")
        assert not (tmp_path / "v1").exists()
    assert (tmp_path / "v1" / "file").read_text(encoding="utf-8") == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]

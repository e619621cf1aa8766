from __future__ import annotations

from pathlib import Path

import numpy as np

from rag.vectors import VectorFile, VectorWriter, key


def write(folder: Path, *texts: str) -> None:
    with VectorWriter(folder, 3) as writer:
        writer.append([key(text) for text in texts], np.array([[len(text)] * 3 for text in texts], np.float32))


def test_vectors_are_found_by_their_text(tmp_path: Path) -> None:
    write(tmp_path, "a", "bb")
    write(tmp_path, "ccc")
    file = VectorFile(tmp_path, 3)
    assert len(file) == 3
    assert [v.tolist() if (v := file.find(key(t))) is not None else None for t in ("bb", "ccc", "d")] == [
        [2.0, 2.0, 2.0],
        [3.0, 3.0, 3.0],
        None,
    ]


def test_a_row_torn_by_a_kill_is_ignored_and_written_over(tmp_path: Path) -> None:
    write(tmp_path, "a", "bb")
    with (tmp_path / "vectors").open("r+b") as file:
        file.truncate(3 * 4 + 5)
    assert len(VectorFile(tmp_path, 3)) == 1
    write(tmp_path, "ccc")
    found = VectorFile(tmp_path, 3)
    assert len(found) == 2
    assert found.find(key("bb")) is None
    vector = found.find(key("ccc"))
    assert vector is not None
    assert vector.tolist() == [3.0, 3.0, 3.0]


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert len(VectorFile(tmp_path / "none", 3)) == 0

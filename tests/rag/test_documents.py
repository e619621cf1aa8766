from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import DataError
from rag.documents import find_files


def write(path: Path, text: str = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ids(*paths: Path) -> list[str]:
    return [file.id for file in find_files(paths).files]


def test_a_folder_gives_its_documents_by_their_path_within_it(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    write(tmp_path / "docs" / "deep" / "b.txt")
    assert ids(tmp_path / "docs") == ["docs/a.md", "docs/deep/b.txt"]


def test_a_file_is_named_by_its_name(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "one.md")) == ["one.md"]


def test_a_pattern_gives_the_files_it_matches(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    write(tmp_path / "b.txt")
    assert ids(tmp_path / "*.md") == ["a.md"]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    write(tmp_path / "docs" / ".git" / "b.txt")
    write(tmp_path / "docs" / ".hidden.txt")
    search = find_files([tmp_path / "docs"])
    assert [file.id for file in search.files] == ["docs/a.md"]
    assert search.left == []


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "docs" / "a.md")
    assert ids(tmp_path / "docs", path) == ["docs/a.md"]


def test_two_files_of_one_name_get_ids_that_differ(tmp_path: Path) -> None:
    first, second = write(tmp_path / "x" / "a.md"), write(tmp_path / "y" / "a.md")
    assert ids(first, second) == ["a.md", second.as_posix()]


def test_what_is_no_document_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    (tmp_path / "docs" / "photo.png").write_bytes(b"\x89PNG")
    (left,) = find_files([tmp_path / "docs"]).left
    assert left.path.endswith("photo.png")
    assert ".png" in left.reason


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret.txt")
    write(tmp_path / "outside" / "more.txt")
    write(tmp_path / "docs" / "a.md")
    (tmp_path / "docs" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "docs" / "folder").symlink_to(tmp_path / "outside")
    search = find_files([tmp_path / "docs"])
    assert [file.id for file in search.files] == ["docs/a.md"]
    assert sorted(Path(left.path).name for left in search.left) == ["folder", "link.txt"]


def test_a_link_to_a_file_of_the_folder_is_not_read_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "docs" / "a.md")
    (tmp_path / "docs" / "b.md").symlink_to(path)
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    assert ids(tmp_path / "docs") == ["docs/a.md"]


def test_a_pipe_is_left_out_and_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    os.mkfifo(tmp_path / "docs" / "pipe.txt")
    (left,) = find_files([tmp_path / "docs"]).left
    assert left.reason == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list any folder")
def test_a_folder_that_cannot_be_listed_does_not_stop_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    closed = tmp_path / "docs" / "closed"
    closed.mkdir(mode=0)
    search = find_files([tmp_path / "docs"])
    closed.chmod(0o755)
    assert [file.id for file in search.files] == ["docs/a.md"]
    assert "cannot be listed" in search.failed[0].reason


def test_no_such_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        find_files([tmp_path / "nowhere"])


def test_an_empty_folder_says_what_it_could_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no documents; name a file or folder with html, pdf"):
        find_files([tmp_path])

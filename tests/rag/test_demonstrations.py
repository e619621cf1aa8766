"""Examples are found by likeness, and a folder of them is made once and checked when it is opened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.errors import ArtifactError
from core.prompts import Demonstration
from rag.demonstrations import open_demonstrations, store_demonstrations
from tests.conftest import MODELS

EXAMPLES = [
    Demonstration("My card was stolen in the train", "lost_card"),
    Demonstration("When will my new card arrive?", "card_arrival"),
    Demonstration("I want my money back for these shoes", "refund"),
    Demonstration("I want my money back for these shoes", "second output of the same input"),
    Demonstration("Error code XJ-4471 on the screen", "technical"),
]

pytestmark = pytest.mark.usefixtures("encoder_folder")


def store(home: Path):
    return store_demonstrations(home, EXAMPLES, "all-minilm-l6-v2", MODELS)


def test_likeness_is_of_meaning_and_of_words(tmp_path: Path) -> None:
    _, found = store(tmp_path)
    near = found.nearest(["somebody took my bank card", "what does XJ-4471 mean"], 1)
    assert [one.output for (one,) in near] == ["lost_card", "technical"]


def test_separators_of_lines_may_stand_in_an_example(tmp_path: Path) -> None:
    odd = Demonstration("one\u2028two\x85three\rfour\nfive", "a\x0cb\u2029c")
    name, _ = store_demonstrations(tmp_path, [odd, EXAMPLES[0]], "all-minilm-l6-v2", MODELS)
    found = open_demonstrations(tmp_path / name, MODELS)
    assert odd in found.nearest(["one two"], 2)[0]


def test_all_examples_come_once_when_more_are_asked_for(tmp_path: Path) -> None:
    _, found = store(tmp_path)
    (near,) = found.nearest(["shoes"], 10)
    assert near[0].output == "refund"
    assert len(near) == 4


def test_the_same_examples_are_stored_once(tmp_path: Path) -> None:
    name, _ = store(tmp_path)
    stamp = (tmp_path / name / "vectors.npy").stat().st_mtime_ns
    assert store(tmp_path)[0] == name
    assert (tmp_path / name / "vectors.npy").stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_folder_says_so(tmp_path: Path) -> None:
    name, _ = store(tmp_path)
    lines = (tmp_path / name / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / name / "examples.jsonl").write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(ArtifactError, match="build the use case again"):
        open_demonstrations(tmp_path / name, MODELS)
    shutil.rmtree(tmp_path / name / "words")
    (tmp_path / name / "examples.jsonl").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_demonstrations(tmp_path / name, MODELS)

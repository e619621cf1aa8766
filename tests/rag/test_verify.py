"""`tunefork verify` finds what is damaged and names it; `tunefork rebuild` mends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.cli import main
from core.files import read_json, write_json
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.verify import Verification, verify

Indexed = tuple[UseCaseFolder, UseCase, Workspace]


@pytest.fixture
def copied(indexed: Indexed, tmp_path: Path) -> Indexed:
    """A copy of the small index, to damage."""
    _, settings, workspace = indexed
    shutil.copytree(workspace.path / "use_cases", tmp_path / "use_cases")
    (tmp_path / "models").symlink_to(workspace.models)
    copy = Workspace(tmp_path)
    return copy.use_case("facts"), settings, copy


def active(folder: UseCaseFolder) -> Path:
    version = folder.index.active()
    assert version is not None
    return version


def problems(found: Verification) -> dict[str, str]:
    return {check.part: check.problem for check in found.checks if check.problem}


def test_a_good_index_is_sound_in_every_part(copied: Indexed) -> None:
    found = verify(*copied)
    assert problems(found) == {}
    assert found.sound
    assert (found.documents, found.passages) == (5, 5)
    assert {"origin.json", "passages.jsonl", "vectors", "words", "chroma"} <= {check.part for check in found.checks}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def other_row(version: Path) -> None:
    """Two rows change places, and the hashes are made to fit: only what belongs together tells."""
    lines = (version / "passages.jsonl").read_text().splitlines(keepends=True)
    lines[0], lines[1] = lines[1], lines[0]
    (version / "passages.jsonl").write_text("".join(lines))


def other_vectors(version: Path) -> None:
    vectors = np.fromfile(version / "vectors", np.float32).reshape(-1, 384)
    vectors[::-1].tofile(version / "vectors")


def lost_row(version: Path) -> None:
    import chromadb

    (folder,) = version.glob("chroma-*")
    client = chromadb.PersistentClient(str(folder), settings=chromadb.config.Settings(anonymized_telemetry=False))
    client.get_collection("passages", embedding_function=None).delete(ids=["3"])
    client.close()


def other_count(version: Path) -> None:
    origin = read_json(version / "origin.json")
    write_json(version / "origin.json", {**origin, "documents": 6})


@pytest.mark.parametrize(
    ("damage", "part", "says"),
    [
        (lambda v: flip(v / "vectors", 100), "vectors", "another hash"),
        (lambda v: flip(v / "passages.jsonl", 40), "passages.jsonl", "another hash"),
        (lambda v: (v / "words" / "words.json").unlink(), "words/words.json", "is missing"),
        (lambda v: flip(v / "files.json", 2), "files.json", "cannot be read"),
        (lambda v: (v / "origin.json").write_text("{"), "origin.json", "damaged"),
        (other_row, "passages", "row 0 is passage 0 of 'suez', not 0 of 'panama'"),
        (other_row, "vectors", "row 0 is the vector of another text"),
        (other_vectors, "embedding model", "embedded anew has a cosine of"),
        (other_vectors, "chroma", "row 0 has another vector than the file beside it"),
        (lost_row, "chroma", "4 rows, not 5"),
        (lambda v: shutil.rmtree(next(v.glob("chroma-*"))), "chroma", "there is no collection"),
        (other_count, "files.json", "lists 1 files with 5 documents, not 1 with 6"),
    ],
)
def test_damage_is_found_and_its_part_named(
    copied: Indexed, damage: Callable[[Path], None], part: str, says: str
) -> None:
    folder, settings, workspace = copied
    damage(active(folder))
    found = verify(folder, settings, workspace)
    assert not found.sound
    assert says in " / ".join(check.problem or "" for check in found.checks if check.part == part)


def test_another_embedding_model_is_named(copied: Indexed, e5_folder: Path) -> None:
    folder, settings, workspace = copied
    found = verify(folder, settings.model_copy(update={"embedding_model": str(e5_folder)}), workspace)
    assert list(problems(found)) == ["embedding model"]
    assert "the index was made with 'all-minilm-l6-v2'" in problems(found)["embedding model"]


def test_the_command_says_what_is_damaged_and_rebuild_mends_it(
    copied: Indexed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, workspace = copied
    monkeypatch.setenv("TUNEFORK_HOME", str(workspace.path))
    assert main(["verify", "facts"]) == 0
    assert "facts: v0001, 5 passages of 5 documents: sound" in capsys.readouterr().out
    flip(active(folder) / "vectors", 100)
    assert main(["verify", "facts", "--json"]) == 1
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert value["sound"] is False
    assert next(check["part"] for check in value["checks"] if not check["sound"]) == "vectors"
    assert captured.err.rstrip().endswith("run: tunefork rebuild facts")
    assert main(["rebuild", "facts", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["changed"], report["embedded"], report["version"]) == (True, 5, "v0002")
    assert main(["verify", "facts"]) == 0


def test_verify_and_rebuild_of_nothing_say_what_to_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.declare("empty", {})
    for command in ("verify", "rebuild"):
        assert main([command, "empty"]) == 2
        assert "run: tunefork ingest empty PATH" in capsys.readouterr().err

"""The length of chunks: chosen by the use case's own questions, kept only when shown to be better, used by rebuild."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from core.cli import main
from core.rows import Row
from core.search_settings import SearchSettings
from core.types import Message
from core.workspace import Workspace
from rag.chunks import chunking_of
from rag.evaluate import judged_rows
from rag.tune_chunks import tune_chunks
from tests.rag.conftest import write_corpus
from tests.rag.test_tune import CODES, rows


@pytest.fixture
def evaluation(tmp_path: Path, ingest_into: Callable[..., object]) -> Path:
    """Questions about the use case `parts`, which is indexed."""
    ingest_into("parts", write_corpus(tmp_path / "c.jsonl", CODES))
    path = tmp_path / "eval.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": r.id, "input": r.input, "output": "x", "context_ids": r.context_ids}) + "\n"
            for r in rows()
        )
    )
    return path


@pytest.mark.parametrize(
    ("reads", "declared", "longest", "target"),
    [(254, None, 254, 200), (510, None, 400, 200), (254, 128, 128, 128), (254, 400, 254, 254)],
)
def test_no_chunk_is_longer_than_declared_or_than_the_model_reads(
    reads: int, declared: int | None, longest: int, target: int
) -> None:
    made = chunking_of(reads, declared)
    assert (made.max_tokens, made.target_tokens) == (longest, target)


def test_the_best_length_on_dev_is_kept_only_when_the_test_half_shows_it_and_its_index_is_gone_again(
    tmp_path: Path, workspace: Workspace, ingest_into: Callable[..., object]
) -> None:
    # What is asked stands behind so much else that one vector of all does not show it.
    noise = [
        "table",
        "river",
        "stone",
        "green",
        "paper",
        "window",
        "garden",
        "winter",
        "bread",
        "music",
        "letter",
        "mountain",
        "island",
        "summer",
        "candle",
    ]
    filler = {id: ". ".join(" ".join(Random(f"{id}{n}").choices(noise, k=9)) for n in range(16)) for id in CODES}
    corpus = write_corpus(tmp_path / "c.jsonl", {id: ("", f"{filler[id]}. {text}") for id, (_, text) in CODES.items()})
    ingest_into("parts", corpus)
    folder, settings = workspace.declare("parts", {})
    asked = [
        Row(f"{id}-{n}", (Message("user", question),), ("x",), (id,))
        for id, (_, text) in CODES.items()
        for n, question in enumerate((text, text.removesuffix(".")))
    ]
    found = tune_chunks(folder, settings, workspace, judged_rows(asked, None), SearchSettings(method="dense"), [48])
    assert [one.chunk_tokens for one in found.tried] == [48, None]
    assert found.best == 48 and found.difference.value > 0
    assert found.changed is (found.p < 0.025)
    assert found.kept == (48 if found.changed else None)
    assert not list(folder.path.glob(".chunks-*"))


def test_a_declared_length_is_used_by_the_next_ingest(workspace: Workspace, evaluation: Path) -> None:
    folder, settings = workspace.declare("parts", {"chunk_tokens": 48})
    from rag.ingest import ingest
    from rag.origin import load_origin

    assert ingest(folder, settings, workspace, settings.docs).changed
    version = folder.index.active()
    assert version is not None
    assert load_origin(version).chunking["max_tokens"] == 48
    assert not ingest(folder, settings, workspace, settings.docs).changed


def test_the_command_says_what_it_tried_and_leaves_equals_alone(
    workspace: Workspace, evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune-retrieval", "parts", "--eval", str(evaluation), "--chunk-tokens", "200", "--json"]) == 0
    chunks = json.loads(capsys.readouterr().out)["chunks"]
    # Each document is one short chunk, whatever the length.
    assert (chunks["kept"], chunks["difference"]["value"]) == (None, 0)
    assert [one["passages"] for one in chunks["tried"]] == [len(CODES)] * 2
    assert workspace.use_case("parts").settings().chunk_tokens is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--chunk-tokens", "few"], "must be numbers of tokens"),
        (["--chunk-tokens", "8"], "must be from 32 to 8192"),
        (["--chunk-tokens", "64,128", "--minutes", "0.000001"], "over --minutes"),
    ],
)
def test_lengths_that_cannot_be_tried_are_refused(
    evaluation: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["tune-retrieval", "parts", "--eval", str(evaluation), *flags]) == 2
    assert said in capsys.readouterr().err

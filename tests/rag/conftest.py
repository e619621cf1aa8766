"""A small indexed use case, made once for the tests that only read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace

PASSAGES = {
    "panama": ("Panama Canal", "The Panama Canal opened in 1914 and joins the Atlantic to the Pacific Ocean."),
    "suez": ("Suez Canal", "The Suez Canal opened in 1869 and joins the Mediterranean Sea to the Red Sea."),
    "tea": ("Tea", "Green tea is steeped in water of seventy degrees for two minutes, or it turns bitter."),
    "chess": ("Chess", "In chess a pawn that reaches the far side of the board becomes a queen or another piece."),
    "moon": ("The Moon", "Neil Armstrong was the first person to walk on the Moon, on 20 July 1969."),
}


def write_corpus(path: Path, passages: dict[str, tuple[str, str]] = PASSAGES) -> Path:
    rows = [{"id": id, "title": title, "text": text} for id, (title, text) in passages.items()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> tuple[UseCaseFolder, UseCase, Workspace]:
    """A use case whose index holds PASSAGES. Do not change it."""
    from rag.ingest import ingest

    workspace = Workspace(tmp_path_factory.mktemp("indexed"))
    corpus = write_corpus(workspace.path / "corpus.jsonl")
    folder, settings = workspace.declare("facts", {"docs": (corpus,)})
    ingest(folder, settings, workspace, [corpus])
    return folder, settings, workspace


@pytest.fixture
def ingest_into(workspace: Workspace, encoder_folder: Path) -> Callable[..., object]:
    """`ingest_into(name, *paths)`: ingest and return the report."""

    def run(name: str, *paths: Path) -> object:
        from rag.ingest import ingest

        folder, settings = workspace.declare(name, {"docs": paths})
        return ingest(folder, settings, workspace, paths)

    return run


@pytest.fixture
def words() -> Callable[[Sequence[str]], list[list[tuple[int, int]]]]:
    """A tokenizer of one token a word or sign: what chunking needs of a model's."""
    import re

    def spans(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[match.span() for match in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]

    return spans

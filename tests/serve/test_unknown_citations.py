"""Numbers that an answer cites and no source has are told to the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core.types import Source
from core.workspace import Workspace
from rag.engine import RagEngine
from tests.serve.conftest import EchoEngine, Server, declare

ASKED: list[Any] = [{"role": "user", "content": "When did it open?"}]
Wire = Callable[[str], dict[str, Any]]


class OnePassage:
    """Finds the same passage for every text."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        return [[Source(1, "canal", "Canal", "It opened in 1914.", 1.0, {})] for _ in texts]


def _whole(server: Server) -> dict[str, Any]:
    answer = server.client().chat.completions.create(model="canals", messages=ASKED)
    return answer.choices[0].message.model_extra or {}


def _streamed(server: Server) -> dict[str, Any]:
    chunks = list(server.client().chat.completions.create(model="canals", messages=ASKED, stream=True))
    return chunks[-1].choices[0].delta.model_extra or {}


@pytest.fixture(params=[_whole, _streamed])
def added(request: pytest.FixtureRequest, serve: Callable[..., Server], workspace: Workspace, engines: Any) -> Wire:
    """What the wire adds to an answer of the given text."""

    def ask(text: str) -> dict[str, Any]:
        declare(workspace, "canals", base_model="cites")
        engines["cites"] = RagEngine(EchoEngine(answer=lambda _: text), OnePassage(), 1)
        found: dict[str, Any] = request.param(serve())
        return found

    return ask


def test_a_number_that_no_source_has_is_told(added: Wire) -> None:
    found = added("In 1914 [1], to great acclaim [3][7].")
    assert found["unknown_citations"] == [3, 7]
    assert found["sources"][0]["metadata"]["cited"] is True


def test_an_answer_whose_citations_all_resolve_has_no_such_field(added: Wire) -> None:
    assert set(added("In 1914 [1].")) == {"sources"}


def test_an_answer_may_come_back_as_history_with_what_was_added(
    serve: Callable[..., Server], workspace: Workspace, engines: Any
) -> None:
    declare(workspace, "canals", base_model="cites")
    engines["cites"] = EchoEngine("cites")
    history: list[Any] = [{"role": "assistant", "content": "1914 [3].", "sources": [], "unknown_citations": [3]}]
    answer = serve().client().chat.completions.create(model="canals", messages=[*ASKED, *history, *ASKED])
    assert answer.choices[0].message.content == "cites: When did it open?"

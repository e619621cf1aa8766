"""Where the context stands, before the question or after it: measured as an arm, built and served as it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.build import build
from core.engines.scripted import ScriptedEngine
from core.types import Message, Request
from core.workspace import Workspace
from serve.catalog import Catalog
from tests.advisor.runs import advise, report_of, write_rows

FIRMS = {f"Firm{i:02d}": f"{i + 11} million" for i in range(30)}
FILLER = "It sells pumps and valves to farms in the north of the country. " * 4


def asked(firm: str) -> str:
    return f"What did {firm} make?"


def served_prompt(workspace: Workspace, use_case: str, text: str) -> list[dict[str, str]]:
    """The messages, as a report shows them, in which the served use case asks its base model."""
    engine = ScriptedEngine(lambda _: "yes", name="base")
    catalog = Catalog(workspace, lambda _: engine)
    with catalog.lease(use_case) as served:
        served.engine.complete([Request((Message("user", text),))])
    catalog.close()
    (request,) = engine.requests
    return [{"role": message.role, "content": message.content} for message in request.messages]


def test_the_place_of_a_context_that_inputs_bring_along_can_be_the_remedy(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    filings = {
        firm: f"{asked(firm)}\n\n{firm} made {sum_} in its last year.\n\n{FILLER}" for firm, sum_ in FIRMS.items()
    }
    rows = [{"id": firm, "input": text, "output": FIRMS[firm]} for firm, text in filings.items()]
    write_rows(project / "eval.jsonl", rows)

    def reads_when_the_question_is_last(request: Request) -> str:
        text = request.messages[-1].content
        return FIRMS[text[-len("Firm00 make?") :].split()[0]] if text.endswith("?") else "I like trains."

    engine = base(reads_when_the_question_is_last)
    arms = "prompt:context_first,prompt:context_last"
    verdict = advise(capsys, "filings", "--eval", str(project / "eval.jsonl"), "--arms", arms, "--full")
    assert (verdict["route"], verdict["route_arm"]) == ("prompt", "prompt:context_first")
    # The inputs have their question first already: that arm asks what the base was asked, which is known.
    assert verdict["arms"]["prompt:context_last"]["n"] == 30
    assert len(engine.requests) == 2 * 30

    folder, settings = workspace.declare("filings", {})
    assert build(folder, settings, workspace).context == "first"
    prompts = report_of(workspace, "filings", verdict)["provenance"]["prompts"]
    assert served_prompt(workspace, "filings", filings["Firm00"]) == prompts["prompt:context_first"]
    # What brings no context along is asked as it is.
    assert served_prompt(workspace, "filings", "Hello?")[-1]["content"] == "Hello?"


@pytest.mark.usefixtures("encoder_folder")
def test_the_place_of_retrieved_passages_is_served_as_it_was_measured(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(project / "eval.jsonl", [{"id": f, "input": asked(f), "output": s} for f, s in FIRMS.items()])
    write_rows(project / "docs.jsonl", [{"id": f, "text": f"{f} made {s} in its last year."} for f, s in FIRMS.items()])

    def reads_when_the_question_is_first(request: Request) -> str:
        text = request.messages[-1].content
        firm = next(f for f in FIRMS if asked(f) in text)
        return FIRMS[firm] if f"{firm} made" in text and text.startswith("Answer") else "I like trains."

    base(reads_when_the_question_is_first)
    files = ["--eval", str(project / "eval.jsonl"), "--docs", str(project / "docs.jsonl"), "--top-k", "2"]
    verdict = advise(
        capsys, "firms", *files, "--arms", "oracle:context_last,retrieved,retrieved:context_last", "--full"
    )
    assert (verdict["route"], verdict["route_arm"], verdict["ready"]) == ("rag", "retrieved:context_last", True)
    prompts = report_of(workspace, "firms", verdict)["provenance"]["prompts"]
    assert prompts["retrieved"][-1]["content"].endswith("?")
    assert prompts["retrieved:context_last"][-1]["content"].startswith("Answer")

    folder, settings = workspace.declare("firms", {})
    assert build(folder, settings, workspace).context == "last"
    assert served_prompt(workspace, "firms", asked("Firm00")) == prompts["retrieved:context_last"]


def test_a_place_that_inputs_cannot_have_is_absent_and_says_why(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(project / "eval.jsonl", [{"id": f, "input": asked(f), "output": s} for f, s in FIRMS.items()])
    base(lambda _: "I like trains.")
    verdict = advise(capsys, "bare", "--eval", str(project / "eval.jsonl"), "--arms", "prompt:context_last")
    assert set(verdict["arms"]) == {"closed"}
    absent = {a["arm"]: a["why"] for a in report_of(workspace, "bare", verdict)["absent"]}
    assert absent["prompt:context_last"] == "the inputs bring no context along beside their question"

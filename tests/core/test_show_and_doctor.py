"""What `show` and `doctor` print is for people: words, a line a thing, and nothing that is as it always is."""

from __future__ import annotations

import json

import pytest

from core.cli import main
from core.commands.doctor import EXTRAS
from core.workspace import Workspace


def test_of_a_table_only_what_differs_from_its_defaults_is_shown(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.declare("faq", {"retrieval": {"method": "lexical"}, "grounding": {"cite": True}})
    assert main(["show", "faq"]) == 0
    out = capsys.readouterr().out
    assert "  retrieval.method lexical\n" in out
    assert "  grounding.cite   yes\n" in out
    assert not {"{", "fusion", "constraints"} & set(out.replace(".", " ").split())
    assert main(["show", "faq", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["retrieval"]["fusion"] == "convex"


def test_the_doctor_names_every_extra_and_how_to_install_what_is_missing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.commands.doctor.distributions", lambda: [])
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["extras"] == {extra: f"absent (pip install 'tunefork[{extra}]')" for extra in EXTRAS}
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "extras           dpo: absent" in out
    assert "True" not in out
    assert "False" not in out

"""A pilot that is trained with gold passages and asked with them, on the real starter model."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.workspace import Workspace
from tests.advisor.runs import advise, report_of, write_rows

CITIES = (
    "Oslo",
    "Lima",
    "Cairo",
    "Bern",
    "Quito",
    "Riga",
    "Sofia",
    "Tunis",
    "Accra",
    "Dakar",
    "Hanoi",
    "Seoul",
    "Turin",
)


@pytest.mark.usefixtures("starter_folder", "encoder_folder")
def test_the_arm_is_built_and_asked_from_end_to_end(
    workspace: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advisor.pilots.PILOT_SECONDS", 1.0)
    rows = [
        {"id": c, "question": f"Where is the {c} office?", "answer": "North road", "context_ids": [c]} for c in CITIES
    ]
    train = write_rows(project / "train.jsonl", rows[:11])
    held = write_rows(project / "eval.jsonl", rows[11:])
    docs = write_rows(project / "docs.jsonl", [{"id": c, "text": f"The {c} office is in North road."} for c in CITIES])
    files = ["--eval", str(held), "--train", str(train), "--docs", str(docs)]
    verdict = advise(capsys, "offices", *files, "--arms", "tune_oracle", "--top-k", "1", "--max-tokens", "8")
    arm = verdict["arms"]["tune_oracle"]
    assert (arm["n"], arm["error"]) == (2, 0)
    report = report_of(workspace, "offices", verdict)
    assert "office is in North road" in report["provenance"]["prompts"]["tune_oracle"][-1]["content"]
    (pilot,) = (workspace.use_case("offices").path / "pilots").iterdir()
    assert report["provenance"]["pilots"]["tune_oracle"].startswith(pilot.name.removeprefix("lora-"))

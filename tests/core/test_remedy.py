"""What was built is kept by version, and an earlier one is put in force by one command."""

from __future__ import annotations

import json

import pytest

from core.cli import main
from core.errors import ConfigError
from core.files import write_json
from core.remedy import Remedy, in_force, load_remedy, remedies, roll_back, save_remedy
from core.workspace import UseCaseFolder, Workspace


def remedy(instruction: str) -> Remedy:
    fields = {"use_case": "faq", "route": "base", "base_model": "echo", "embedding_model": "e"}
    return Remedy.model_validate({**fields, "instruction": instruction})


@pytest.fixture
def folder(workspace: Workspace) -> UseCaseFolder:
    folder, _ = workspace.declare("faq", {"base_model": "echo"})
    for instruction in ("one", "two", "three"):
        save_remedy(folder.remedy_path, remedy(instruction))
    return folder


def instruction(folder: UseCaseFolder) -> str:
    loaded = load_remedy(folder.remedy_path)
    assert loaded is not None
    return loaded.instruction


def test_versions_are_kept_and_the_newest_is_in_force(folder: UseCaseFolder) -> None:
    assert remedies(folder.remedy_path) == ["v0001", "v0002", "v0003"]
    assert (in_force(folder.remedy_path), instruction(folder)) == ("v0003", "three")


def test_rollback_goes_one_back_or_to_a_version(folder: UseCaseFolder) -> None:
    assert roll_back(folder.remedy_path) == "v0002"
    assert roll_back(folder.remedy_path) == "v0001"
    assert instruction(folder) == "one"
    with pytest.raises(ConfigError, match="no version before v0001; kept: v0001, v0002, v0003"):
        roll_back(folder.remedy_path)
    assert roll_back(folder.remedy_path, "v0003") == "v0003"
    assert instruction(folder) == "three"
    with pytest.raises(ConfigError, match="v0009"):
        roll_back(folder.remedy_path, "v0009")


def test_what_is_built_after_a_rollback_is_a_new_version(folder: UseCaseFolder) -> None:
    roll_back(folder.remedy_path)
    save_remedy(folder.remedy_path, remedy("four"))
    assert (in_force(folder.remedy_path), instruction(folder)) == ("v0004", "four")


def test_remedy_from_before_versions_were_kept_is_the_first(workspace: Workspace) -> None:
    folder, _ = workspace.declare("old", {"base_model": "echo"})
    write_json(folder.remedy_path, remedy("old").model_dump(mode="json"))
    save_remedy(folder.remedy_path, remedy("new"))
    assert roll_back(folder.remedy_path) == "v0001"
    assert instruction(folder) == "old"


def test_command_puts_back_and_lists(folder: UseCaseFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revert", "faq", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["before"], document["in_force"]) == ("v0003", "v0002")
    assert main(["revert", "faq", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["v0001", "v0002 (in force)", "v0003"]
    assert main(["revert", "faq", "v0007"]) == 2
    assert "v0007" in capsys.readouterr().err

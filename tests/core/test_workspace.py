"""Use cases are declared by the first command that uses them, and their artifacts are swapped atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ArtifactError, ConfigError, UnknownUseCase
from core.workspace import Versions, Workspace, open_workspace


def test_flags_are_remembered_for_the_next_command(workspace: Workspace, tmp_path: Path) -> None:
    workspace.declare("faq", {"docs": [tmp_path], "delta": 0.1})
    _, settings = workspace.declare("faq", {"base_model": "other/model"})
    assert settings.docs == (tmp_path,)
    assert settings.delta == 0.1
    assert settings.base_model == "other/model"


def test_a_toml_file_declares_with_paths_relative_to_itself(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "use_case.toml").write_text('name = "faq"\neval = "eval.jsonl"\n[constraints]\nmust_cite = true\n')
    home, settings = workspace.declare(str(folder / "use_case.toml"), {})
    assert settings.eval == folder / "eval.jsonl"
    assert home.settings() == settings
    assert home.settings().constraints.must_cite


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = tmp_path / "u.toml"
    toml.write_text('name = "faq"\ndelta = 0.1\ntop_k = 2\nseed = 1\n')
    monkeypatch.setenv("TUNEFORK_DELTA", "0.2")
    monkeypatch.setenv("TUNEFORK_TOP_K", "3")
    _, settings = workspace.declare(str(toml), {"top_k": 4})
    assert (settings.delta, settings.top_k, settings.seed) == (0.2, 4, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "faq"\ncolour = "red"\n', "unknown setting 'colour'"),
        ('name = "faq"\ndelta = 5\n', "delta = 5"),
        ('name = "Bad Name"\n', "name = 'Bad Name'"),
        ("name = \n", "not valid TOML"),
    ],
)
def test_a_bad_declaration_is_one_line_that_names_the_value(
    workspace: Workspace, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "u.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        workspace.declare(str(tmp_path / "u.toml"), {})
    assert "\n" not in str(caught.value)


def test_any_text_setting_survives_the_toml_file(workspace: Workspace) -> None:
    text = 'Say "hi"\\ to\tall\n\x7f and 中文'
    home, settings = workspace.declare("faq", {"instruction": text})
    assert home.settings().instruction == settings.instruction == text


def test_an_unknown_name_lists_near_ones(workspace: Workspace) -> None:
    workspace.declare("banking", {})
    with pytest.raises(UnknownUseCase, match=r"unknown use case 'bankin'; did you mean banking\?"):
        workspace.use_case("bankin")


def test_deleting_forgets_the_use_case(workspace: Workspace) -> None:
    workspace.declare("faq", {})
    workspace.delete("faq")
    assert workspace.names() == []
    assert list((workspace.path / "use_cases").iterdir()) == []


def test_a_version_is_in_force_only_once_activated(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "index")
    with versions.build() as staging:
        (staging / "data").write_text("1")
    assert versions.active() is None
    versions.activate("v0001")
    with versions.build() as staging:
        (staging / "data").write_text("2")
    assert versions.active() == tmp_path / "index" / "v0001"
    versions.activate("v0002")
    versions.drop("v0001")
    assert versions.all() == ["v0002"]
    with pytest.raises(ArtifactError, match="in force"):
        versions.drop("v0002")
    with pytest.raises(ArtifactError, match="no version v0009"):
        versions.activate("v0009")


def test_runs_started_in_one_second_are_kept_apart(workspace: Workspace) -> None:
    home, _ = workspace.declare("faq", {})
    runs = [home.new_run("advise") for _ in range(3)]
    assert len(set(runs)) == 3
    assert home.runs() == sorted(runs)


def test_a_use_case_whose_deletion_was_killed_is_gone_and_off_the_disk_with_the_next(workspace: Workspace) -> None:
    for name in ("faq", "other"):
        workspace.declare(name, {})
    folder = workspace.path / "use_cases"
    (folder / "faq").rename(folder / ".faq.123.deleted")
    assert workspace.names() == ["other"]
    workspace.delete("other")
    assert list(folder.iterdir()) == []


def test_a_workspace_that_is_a_file_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNEFORK_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="is no folder; name one in TUNEFORK_HOME"):
        open_workspace()


def test_what_is_proposed_is_not_remembered(workspace: Workspace) -> None:
    folder, settings = workspace.proposed("faq", {"top_k": 9})
    assert settings.top_k == 9
    assert workspace.names() == []
    folder.remember(settings)
    assert workspace.use_case("faq").settings().top_k == 9


def test_a_value_out_of_range_is_blamed_on_where_it_was_given(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"^--top-k = 0: it has to be greater than or equal to 1$"):
        workspace.proposed("faq", {"top_k": 0})
    monkeypatch.setenv("TUNEFORK_DELTA", "5")
    with pytest.raises(ConfigError, match=r"^TUNEFORK_DELTA = '5': it has to be less than 1$"):
        workspace.proposed("faq", {})

"""The command line: quick help, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from core import cli
from core.errors import EngineUnavailable, OtherBase


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "core.cli", *args], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from core.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "transformers", "chromadb", "llama_index", "peft", "pydantic", "numpy", "fastapi"):
        assert f"'{heavy}'" not in done.stderr
    for command in cli.COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "Usage: tunefork " + command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["lits"], "unknown command 'lits'; did you mean list?"),
        (["list", "--jsn"], "No such option"),
        (["show"], "Missing argument 'NAME'"),
        (["show", "nobody"], "unknown use case 'nobody'"),
        (["advise", "nobody"], "unknown use case 'nobody' (there is no eval set to make it from: --eval FILE)"),
        (["build", "nobody", "--route", "magic"], "'magic' is not one of"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    home: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (EngineUnavailable("the endpoint is down"), 1, "the endpoint is down"),
        (OSError(28, "No space left on device", "/x/y"), 2, "the disk is full"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            2,
            "the disk is full",
        ),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: cannot be used (Permission denied)"),
        (OtherBase("v0001: was trained on 'a' and cannot be used with 'b'"), 2, "cannot be used with 'b'"),
        (KeyboardInterrupt(), 130, "go on where it stopped"),
        (ValueError("odd"), 1, "internal error: ValueError: odd"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    @click.command(name="list")
    def fails() -> None:
        raise error

    monkeypatch.setattr("core.commands.list.command", fails, raising=False)
    import core.commands.list

    monkeypatch.setattr(core.commands.list, "command", fails)
    assert cli.main(["list"]) == code
    err = capsys.readouterr().err
    assert says in err
    # click ends the line on which the terminal shows ^C.
    assert err.lstrip("\n").count("\n") == 1


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"tunefork {version('tunefork')}\n"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m core.cli --help | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""

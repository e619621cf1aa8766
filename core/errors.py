"""Every error Tunefork raises on purpose, in one tree.

The command line prints a `TuneforkError` as one line and exits 2 for a
`UserError`, 1 for the rest; the HTTP app turns the same classes into OpenAI's
error envelope. A message says what is wrong, which value, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class TuneforkError(Exception):
    """Base of all errors raised on purpose."""


class UserError(TuneforkError):
    """The user can mend it: a wrong value, a missing file, a busy port."""


class ConfigError(UserError):
    """A setting, flag or use_case.toml entry cannot be used."""


class DataError(UserError):
    """A data file cannot be used; names the file and, where known, the line."""

    def __init__(self, text: str, path: Path | str | None = None, line: int | None = None) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + text)


class UnknownName(UserError):
    """A name nobody knows; the message lists near ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(set(known))
        near = get_close_matches(name, known, n=3, cutoff=0.5) or known[:5]
        text = f"unknown {kind} {name!r}"
        if near:
            text += f"; did you mean {', '.join(near)}?"
        if hint:
            text += f" {hint}"
        super().__init__(text)


class UnknownUseCase(UnknownName):
    """No use case of that name in the workspace."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("use case", name, known, hint="(`tunefork list` shows all)")


class Locked(UserError):
    """Another process holds what this one needs."""


class MissingExtra(UserError):
    """An optional dependency is not installed; prints the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency; run: pip install 'tunefork[{extra}]'")


class ArtifactError(TuneforkError):
    """An index, adapter or converted model is damaged or belongs to something else."""


class OtherBase(ArtifactError, UserError):
    """An adapter that belongs to another base model than the one it is asked for on: the user names the right one."""


class EngineError(TuneforkError):
    """A model call failed. Never scored as a wrong answer."""

    attempts: int = 1
    """Requests that were sent for it."""


class EngineUnavailable(EngineError):
    """The engine cannot be reached or has crashed."""


class EngineTimeout(EngineError):
    """The engine did not answer in time."""


class NotHonoured(EngineError):
    """The request asks for what this engine or model cannot do; `param` is OpenAI's name of the field."""

    def __init__(self, param: str, text: str) -> None:
        self.param = param
        super().__init__(text)


class ContextTooLong(EngineError):
    """The prompt does not fit the model's context window."""

    def __init__(self, prompt_tokens: int, context_window: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.context_window = context_window
        super().__init__(f"the prompt has {prompt_tokens} tokens, the model's context holds {context_window}")

"""The workspace: plain files under ./.tunefork (or TUNEFORK_HOME) that hold every use case.

use_cases/NAME/use_case.toml          what the user declares
use_cases/NAME/verdict.json           the verdict in force
use_cases/NAME/remedy.json            what was built, and what the server serves
use_cases/NAME/canary.json            what a share of the requests goes to instead
use_cases/NAME/runs/<utc>-<kind>/     one folder a job
use_cases/NAME/index/  adapters/      versioned artifacts with an `active` pointer
models/                               converted starter models
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ArtifactError, ConfigError, UnknownUseCase
from core.files import read_json, staged_folder, write_text
from core.locks import hold
from core.settings import USE_CASE_NAME, UseCase, parse_use_case, read_toml


@dataclass(frozen=True)
class Versions:
    """Versioned folders v0001, v0002 ... of one artifact, and the pointer that says which is in force.

    A version is immutable once it is there; activating another is one atomic replace.
    """

    folder: Path

    @contextmanager
    def build(self) -> Iterator[Path]:
        """A staging folder that becomes the next version when the block ends well. Does not activate it."""
        with staged_folder(self.folder / f"v{self._last() + 1:04d}") as staging:
            yield staging

    def newest(self) -> str | None:
        return f"v{self._last():04d}" if self._last() else None

    def all(self) -> list[str]:
        """Names of the versions, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if re.fullmatch(r"v\d{4,}", p.name) and p.is_dir())

    def activate(self, version: str) -> None:
        if version not in self.all():
            raise ArtifactError(
                f"{self.folder}: there is no version {version}; there are {', '.join(self.all()) or 'none'}"
            )
        write_text(self.folder / "active", version + "\n")

    def active(self) -> Path | None:
        """Folder of the version in force; None before the first.

        Raises:
            ArtifactError: the pointer names a version that is gone.
        """
        pointer = self.folder / "active"
        if not pointer.exists():
            return None
        version = pointer.read_text(encoding="utf-8").strip()
        if not (self.folder / version).is_dir():
            raise ArtifactError(f"{pointer}: points at {version}, which is gone; build it again")
        return self.folder / version

    def drop(self, version: str) -> None:
        """Remove a version from the disk. The one in force cannot be dropped."""
        active = self.active()
        if active is not None and active.name == version:
            raise ArtifactError(f"{self.folder}: {version} is in force; activate another version first")
        shutil.rmtree(self.folder / version, ignore_errors=True)

    def _last(self) -> int:
        versions = self.all()
        return int(versions[-1][1:]) if versions else 0


@dataclass(frozen=True)
class UseCaseFolder:
    """Where one use case lives."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def index(self) -> Versions:
        return Versions(self.path / "index")

    @property
    def adapters(self) -> Versions:
        """LoRA adapters and heads alike; each version's origin.json says which (`method`)."""
        return Versions(self.path / "adapters")

    @property
    def demonstrations(self) -> Path:
        """Folders of worked examples to choose from by likeness, each named by its content."""
        return self.path / "demonstrations"

    @property
    def verdict_path(self) -> Path:
        return self.path / "verdict.json"

    @property
    def remedy_path(self) -> Path:
        return self.path / "remedy.json"

    @property
    def canary_path(self) -> Path:
        return self.path / "canary.json"

    def settings(self) -> UseCase:
        return parse_use_case(read_toml(self.path / "use_case.toml"), {}, self.path, str(self.path / "use_case.toml"))

    def remember_first(self, settings: UseCase) -> None:
        """For commands that only look: what makes a use case stays with it, what is asked of one that exists does not."""
        if not (self.path / "use_case.toml").exists():
            self.remember(settings)

    def remember(self, settings: UseCase) -> None:
        """Make `settings` what the use case declares; creates it where it is new."""
        _save(self.path / "use_case.toml", settings)

    def verdict(self) -> dict[str, Any] | None:
        """The verdict in force, as JSON; None before the first `advise`."""
        if not self.verdict_path.exists():
            return None
        verdict = read_json(self.verdict_path)
        assert isinstance(verdict, dict)
        return verdict

    def runs(self) -> list[Path]:
        """Run folders, oldest first."""
        folder = self.path / "runs"
        return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def new_run(self, kind: str) -> Path:
        """A fresh folder runs/<utc>-<kind>."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for suffix in ("", *(f".{n}" for n in range(1, 1000))):
            path = self.path / "runs" / f"{stamp}{suffix}-{kind}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return path
        raise ArtifactError(f"{self.path / 'runs'}: a thousand runs in one second; something starts them in a loop")

    def lock(self, what: str) -> AbstractContextManager[None]:
        """Hold one job of this use case, e.g. `lock("advise")`; a second process gets `Locked`."""
        return hold(self.path / f".{what}.lock", f"`{what}` of use case {self.name!r}")


@dataclass(frozen=True)
class Workspace:
    path: Path

    @property
    def models(self) -> Path:
        return self.path / "models"

    def names(self) -> list[str]:
        folder = self.path / "use_cases"
        if not folder.is_dir():
            return []
        # Hidden ones are on their way in, or out: a killed `delete` leaves one.
        return sorted(p.name for p in folder.iterdir() if p.name[0] != "." and (p / "use_case.toml").is_file())

    def use_case(self, name: str) -> UseCaseFolder:
        """Raises UnknownUseCase (with near names) when there is none."""
        if name not in self.names():
            raise UnknownUseCase(name, self.names())
        return UseCaseFolder(self.path / "use_cases" / name)

    def declare(self, name_or_toml: str, flags: Mapping[str, Any]) -> tuple[UseCaseFolder, UseCase]:
        """The use case that a command names, created or updated: `proposed`, and remembered."""
        folder, settings = self.proposed(name_or_toml, flags)
        folder.remember(settings)
        return folder, settings

    def proposed(self, name_or_toml: str, flags: Mapping[str, Any]) -> tuple[UseCaseFolder, UseCase]:
        """The use case that a command names, from its TOML, the environment and the flags; writes nothing.

        `name_or_toml` is a path when it ends in .toml, else a name. What was declared before stays unless it is
        declared anew. A command remembers it (`UseCaseFolder.remember`), so that the next one needs only the name,
        once it has seen that it can be used: a mistyped file or model would stay with the use case.
        """
        if name_or_toml.endswith(".toml"):
            path = Path(name_or_toml)
            file, folder, source = read_toml(path), path.resolve().parent, name_or_toml
            file.setdefault("name", folder.name)
        else:
            if not re.fullmatch(USE_CASE_NAME, name_or_toml):
                raise ConfigError(
                    f"{name_or_toml!r} cannot name a use case; use lower-case letters, digits, '-', '_' or '.'"
                    " (a declaration file ends in .toml)"
                )
            known = self.path / "use_cases" / name_or_toml / "use_case.toml"
            file = read_toml(known) if known.exists() else {"name": name_or_toml}
            folder, source = known.parent, str(known) if known.exists() else "flags"
        settings = parse_use_case(file, flags, folder, source)
        return UseCaseFolder(self.path / "use_cases" / settings.name), settings

    def delete(self, name: str) -> None:
        """Remove a use case. It disappears from every listing at once, then from the disk."""
        folder = self.use_case(name).path
        folder.rename(folder.with_name(f".{name}.{os.getpid()}.deleted"))
        # With what deletions that were killed have left.
        for doomed in folder.parent.glob(".*.deleted"):
            shutil.rmtree(doomed, ignore_errors=True)


def open_workspace() -> Workspace:
    """The workspace of TUNEFORK_HOME, else ./.tunefork. Nothing is written until something is stored.

    Raises:
        ConfigError: it is a file.
    """
    path = Path(os.environ.get("TUNEFORK_HOME") or ".tunefork").absolute()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"the workspace {path} is no folder; name one in TUNEFORK_HOME")
    return Workspace(path)


def _save(path: Path, settings: UseCase) -> None:
    """Write the declaration, if it changed. Paths are absolute by now, so the command may run from anywhere."""
    lines = []
    tables = []
    for key, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        if isinstance(value, dict):
            tables.append(f"\n[{key}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in value.items() if v is not None))
        else:
            lines.append(f"{key} = {_toml(value)}\n")
    text = "".join(lines + tables)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _toml(value: Any) -> str:
    """A TOML literal. JSON's strings, numbers, booleans and lists of strings are TOML's, DEL excepted."""
    import json

    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""API keys: made and revoked on the command line, kept hashed in the workspace, known to a running server at once.

server/keys.json holds one record a key, revoked ones too: a workspace that has ever had a key never falls back to
letting everybody in.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ArtifactError, ConfigError, UnknownName
from core.files import read_json, write_json
from core.locks import hold

Scope = Literal["chat", "ingest", "tune", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "tf-"


class ApiKey(BaseModel):
    """What is known of a key: enough to recognise it, not to use it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Names the key in lists, logs and usage; says nothing about the key."""
    sha256: str = Field(repr=False)
    """Of the whole key. A plain hash is right here, where it would be wrong for a password: the key is 256 random bits,
    so there is no dictionary to try, and what makes password hashes slow would only make every request slow."""
    name: str = ""
    created: str
    scopes: tuple[Scope, ...] = ("chat",)
    use_cases: tuple[str, ...] = ()
    """May ask only these, and sees no others; () is all, base models included."""
    tenant: dict[str, str] = {}
    """Retrieval shows only passages whose metadata has these values."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    budget_usd: float | None = Field(default=None, gt=0)
    """Over the key's whole life."""
    expires: str | None = None
    revoked: str | None = None

    def usable(self, now: datetime | None = None) -> bool:
        """Neither revoked nor expired."""
        if self.revoked is not None:
            return False
        return self.expires is None or datetime.fromisoformat(self.expires) > (now or datetime.now(UTC))

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


ADMIN = ApiKey(id="admin", sha256="", created="", scopes=("admin",))
"""The holder of a key that the server was started with; and everybody, where there are no keys."""


@dataclass
class KeyStore:
    """The keys of a workspace, read anew when their file changes."""

    workspace: Path
    _stamp: tuple[int, int, int] | None = field(default=None, init=False)
    _keys: tuple[ApiKey, ...] = field(default=(), init=False)

    @cached_property
    def path(self) -> Path:
        return self.workspace / "server" / "keys.json"

    def all(self) -> tuple[ApiKey, ...]:
        """Every key that was ever made, in that order.

        Raises:
            ArtifactError: the file is damaged. Nobody is let in then.
        """
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, ()
            return ()
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            try:
                keys = tuple(ApiKey.model_validate(one) for one in read_json(self.path)["keys"])
            except (ValidationError, KeyError, TypeError) as exc:
                raise ArtifactError(f"{self.path}: damaged; restore it, or delete it and make the keys anew") from exc
            self._stamp, self._keys = stamp, keys
        return self._keys

    def find(self, secret: str) -> ApiKey | None:
        """The usable key that `secret` is. All hashes are compared in constant time: how long it takes tells nothing."""
        digest = _sha256(secret)
        found = [key for key in self.all() if secrets.compare_digest(key.sha256, digest)]
        return found[0] if found and found[0].usable() else None

    def create(
        self,
        *,
        name: str = "",
        scopes: Sequence[Scope] = ("chat",),
        use_cases: Sequence[str] = (),
        tenant: dict[str, str] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        budget_usd: float | None = None,
        expires: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its secret: the only time that anybody sees it.

        Raises:
            ConfigError: a tenant's key may chat only, since whoever stores documents decides whose they are.
        """
        if tenant and set(scopes) != {"chat"}:
            raise ConfigError(
                "a key with a tenant may have the scope chat only: who can ingest decides whose documents are whose"
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=f"key_{secrets.token_hex(6)}",
            sha256=_sha256(secret),
            name=name,
            created=_now(),
            scopes=tuple(dict.fromkeys(scopes)),
            use_cases=tuple(dict.fromkeys(use_cases)),
            tenant=tenant or {},
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            budget_usd=budget_usd,
            expires=None if expires is None else expires.isoformat(timespec="seconds"),
        )
        with self._changing():
            self._write((*self.all(), key))
        return key, secret

    def revoke(self, id: str) -> ApiKey:
        """Make a key unusable from the next request on; one that is revoked already stays as it is.

        Raises:
            UnknownName: there is no such key.
        """
        with self._changing():
            keys = {key.id: key for key in self.all()}
            if id not in keys:
                raise UnknownName("key", id, keys, hint="(`tunefork keys list` shows all)")
            if keys[id].revoked is None:
                keys[id] = keys[id].model_copy(update={"revoked": _now()})
                self._write(tuple(keys.values()))
        return keys[id]

    def _changing(self) -> AbstractContextManager[None]:
        return hold(self.path.with_name(".keys.lock"), "the list of keys", patient=True)

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o077)
        try:
            write_json(self.path, {"schema_version": 1, "keys": [key.model_dump(mode="json") for key in keys]})
        finally:
            os.umask(before)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

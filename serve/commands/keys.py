"""`tunefork keys`: who may use the server, for what, and how much of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from core.workspace import open_workspace

if TYPE_CHECKING:
    from serve.keys import ApiKey, KeyStore

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@click.group("keys")
def command() -> None:
    """API keys of this workspace's server: make, list, revoke. A running server knows at once."""


@command.command("create")
@click.option("--name", default="", help="Whom or what it is for.")
@click.option(
    "--scope", default="chat", show_default=True, metavar="S,S", help="What it may do: chat, ingest, tune, admin (all)."
)
@click.option("--use-case", "use_cases", multiple=True, metavar="NAME", help="May ask only this one; repeatable.")
@click.option("--tenant", "tenants", multiple=True, metavar="KEY=VALUE", help="Sees only passages with this metadata.")
@click.option("--rpm", type=click.IntRange(1), help="Most requests a minute.")
@click.option("--tpm", type=click.IntRange(1), help="Most tokens a minute, of prompts and answers.")
@click.option(
    "--budget-usd", type=click.FloatRange(0, min_open=True), help="Most it may cost, by the prices given to serve."
)
@click.option("--expires", metavar="WHEN", help="A date (2026-12-31), or from now on: 12h, 30d, 8w.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def create(
    name: str,
    scope: str,
    use_cases: tuple[str, ...],
    tenants: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    budget_usd: float | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key and show it, this once: only its hash is kept."""
    store = _store()
    known = open_workspace()
    for use_case in use_cases:
        known.use_case(use_case)
    key, secret = store.create(
        name=name,
        scopes=_scopes(scope),
        use_cases=use_cases,
        tenant=_tenant(tenants),
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        budget_usd=budget_usd,
        expires=None if expires is None else _when(expires),
    )
    if as_json:
        click.echo(json.dumps({**_document(key), "key": secret}, ensure_ascii=False))
        return
    click.echo(secret)
    click.echo(f"{key.id}: keep the line above, it is not shown again", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_keys(as_json: bool) -> None:
    """Every key that was made, without its secret."""
    keys = _store().all()
    if as_json:
        click.echo(json.dumps([_document(key) for key in keys], ensure_ascii=False, indent=2))
        return
    if not keys:
        click.echo("no keys; `tunefork keys create` makes one")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "scopes", "use cases", "limits", "state"):
        table.add_column(column)
    for key in keys:
        table.add_row(
            key.id, key.name or "-", ",".join(key.scopes), ",".join(key.use_cases) or "all", _limits(key), _state(key)
        )
    Console().print(table)


@command.command("revoke")
@click.argument("id")
def revoke(id: str) -> None:
    """Make the key ID unusable, from the next request on."""
    key = _store().revoke(id)
    click.echo(f"revoked {key.id}")


def _store() -> KeyStore:
    from serve.keys import KeyStore

    return KeyStore(open_workspace().path)


def _scopes(text: str) -> Any:
    from core.errors import ConfigError, UnknownName
    from serve.keys import SCOPES

    scopes = [part.strip() for part in text.split(",") if part.strip()]
    for scope in scopes:
        if scope not in SCOPES:
            raise UnknownName("scope", scope, SCOPES)
    if not scopes:
        raise ConfigError("--scope names no scope; known: " + ", ".join(SCOPES))
    return scopes


def _tenant(given: tuple[str, ...]) -> dict[str, str]:
    from core.errors import ConfigError

    tenant: dict[str, str] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not (separator and key.strip() and value.strip()):
            raise ConfigError(f"--tenant {text!r}: write KEY=VALUE, as in --tenant customer=acme")
        if key.strip() in tenant:
            raise ConfigError(f"--tenant {key.strip()} is given twice; a passage has one value of it")
        tenant[key.strip()] = value.strip()
    return tenant


def _when(text: str) -> datetime:
    from core.errors import ConfigError

    span = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    if span is not None:
        return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ConfigError(f"--expires {text!r}: write a date as in 2026-12-31, or a time from now as in 30d") from exc
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise ConfigError(f"--expires {text!r} is in the past")
    return moment


def _document(key: ApiKey) -> dict[str, Any]:
    return {**key.model_dump(mode="json", exclude={"sha256"}), "state": _state(key)}


def _state(key: ApiKey) -> str:
    if key.revoked is not None:
        return "revoked"
    return "usable" if key.usable() else "expired"


def _limits(key: ApiKey) -> str:
    limits = [
        *([f"{key.requests_per_minute} requests/min"] if key.requests_per_minute else []),
        *([f"{key.tokens_per_minute} tokens/min"] if key.tokens_per_minute else []),
        *([f"{key.budget_usd:g} USD"] if key.budget_usd else []),
        *(f"{k}={v}" for k, v in key.tenant.items()),
    ]
    return ", ".join(limits) or "-"

"""`tunefork decide`: a verdict from a ready outcome table; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from advisor.outcomes import read_outcomes
from advisor.verdict import DecisionSettings, decide
from core.errors import ConfigError, UnknownName
from core.settings import Constraints

_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@click.command("decide")
@click.argument("outcomes", type=click.Path(allow_dash=True))
@click.option("--delta", type=float, default=0.05, show_default=True, help="Smallest gain worth money, as a share.")
@click.option("--target", type=float, default=0.90, show_default=True, help="The rate that is good enough.")
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="freshness, must_cite, per_user_rights, deletion, latency_ms=MS or usd_per_1k=USD; repeatable.",
)
@click.option("--price", metavar="IN:OUT", help="US dollars per million input and output tokens, e.g. 0.15:0.60.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON document.")
def command(
    outcomes: str, delta: float, target: float, constraints: tuple[str, ...], price: str | None, as_json: bool
) -> None:
    """Verdict from a ready outcome table; needs no model.

    OUTCOMES is a file (- for standard input) of JSONL rows {"item", "arm", "outcome"} with outcome correct, wrong,
    refused or error, or one JSON object of totals {"metric", "arms": {"closed": {"n", "correct"}}}.
    """
    settings = DecisionSettings(
        delta=delta, target=target, constraints=parse_constraints(constraints), usd_per_mtok=_price(price)
    )
    verdict = decide(read_outcomes(outcomes), settings)
    if as_json:
        click.echo(json.dumps(verdict.to_json(), ensure_ascii=False, indent=2, allow_nan=False))
        return
    from advisor.verdict_text import print_verdict

    print_verdict(verdict)


def parse_constraints(given: Iterable[str]) -> Constraints:
    """Constraints from `NAME` and `NAME=VALUE` words.

    Raises:
        ConfigError: an unknown name, a value that does not fit, or two values for one name.
    """
    values: dict[str, Any] = {}
    for word in given:
        name, _, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in Constraints.model_fields:
            raise UnknownName("constraint", name, Constraints.model_fields)
        value = (
            _number(name, text)
            if name in ("latency_ms", "usd_per_1k")
            else _flag(name, text if "=" in word else "true")
        )
        if values.setdefault(name, value) != value:
            raise ConfigError(f"--constraint {name} is given as {values[name]} and as {value}; keep one of them")
    return Constraints(**values)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    lowest = 0.0 if name == "usd_per_1k" else 1e-9
    if not (lowest <= value < float("inf")):
        raise ConfigError(f"--constraint {name} needs a number over 0, e.g. {name}=500, got {text!r}")
    return value


def _flag(name: str, text: str) -> bool:
    if text.strip().lower() not in _YES_NO:
        raise ConfigError(f"--constraint {name} is on or off: write {name} or {name}=false, got {text!r}")
    return _YES_NO[text.strip().lower()]


def _price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split(":"))
    except ValueError as exc:
        raise ConfigError(f"--price is IN:OUT, US dollars per million tokens, e.g. 0.15:0.60; got {text!r}") from exc
    if not (0 <= read < float("inf") and 0 <= written < float("inf")):
        raise ConfigError(f"--price {text!r}: both prices must be 0 or more")
    return read, written

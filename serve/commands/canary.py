"""`tunefork canary`: try another remedy on a share of a use case's requests, live and without a restart."""

from __future__ import annotations

import json
from typing import Any

import click

from core.canary import (
    VARIANTS,
    Canary,
    Tally,
    canary_remedy,
    control_arm,
    end_canary,
    load_canary,
    start_canary,
    tallies,
)
from core.errors import ConfigError, UnknownName
from core.remedy import remedies, roll_back, save_remedy
from core.workspace import UseCaseFolder, open_workspace


@click.command(name="canary")
@click.argument("name")
@click.option(
    "--arm", metavar="vNNNN|rag|tune|base", help="What to try: a built remedy (`revert --list`), or a variant."
)
@click.option("--share", type=click.FloatRange(0, 100), metavar="PERCENT", help="Of the requests; 0 ends the canary.")
@click.option("--promote", is_flag=True, help="Put what is tried in force for all, and end the canary.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, arm: str | None, share: float | None, promote: bool, as_json: bool) -> None:
    """Send a share of use case NAME's requests to another remedy; without options, say how the arms compare.

    Requests with the same `safety_identifier` or `user` always get the same arm. A running server follows at once.
    """
    if promote and (arm is not None or share is not None):
        raise ConfigError("--promote puts the canary under way in force; give it without --arm and --share")
    folder = open_workspace().use_case(name)
    if not promote and arm is None and share is None:
        _tell(folder, load_canary(folder), as_json)
        return
    with folder.lock("build"):
        if share == 0:
            end_canary(folder)
        elif promote:
            _promote(folder, load_canary(folder))
        else:
            _start(folder, load_canary(folder), arm, share)
    _tell(folder, load_canary(folder), as_json)


def _start(folder: UseCaseFolder, now: Canary | None, arm: str | None, share: float | None) -> None:
    """Raises ConfigError when it is not said what to try or on how much; UnknownName for what was not built."""
    wanted = arm or (now.arm if now is not None else None)
    if wanted is None:
        raise ConfigError(f"no canary of {folder.name!r} is under way; say what to try with --arm")
    if share is None and (now is None or now.arm != wanted):
        raise ConfigError("say with --share how many percent of the requests the canary gets")
    if wanted not in (known := _known(folder)):
        raise UnknownName(
            "arm", wanted, known, hint="(a remedy of `tunefork revert --list`, or a variant that is there)"
        )
    if share is not None:
        start_canary(folder, wanted, share / 100)


def _known(folder: UseCaseFolder) -> list[str]:
    there = {"rag": folder.index.active() is not None, "tune": folder.adapters.active() is not None, "base": True}
    return [*remedies(folder.remedy_path), *(v for v in VARIANTS if there[v])]


def _promote(folder: UseCaseFolder, now: Canary | None) -> None:
    """In force first: a command that is killed in between leaves a canary of what is in force, which changes nothing."""
    from serve.served import present_remedy
    from tuning.adapters import load_origin

    if now is None:
        raise ConfigError(f"no canary of {folder.name!r} is under way; there is nothing to promote")
    remedy, variant = canary_remedy(folder, now, present_remedy(folder))
    if not variant:
        roll_back(folder.remedy_path, now.arm)
    else:
        built: dict[str, Any] = {"route": variant, "method": None, "index_version": None, "adapter_version": None}
        if variant == "tune" and (adapter := folder.adapters.active()) is not None:
            built |= {"method": load_origin(adapter).method, "adapter_version": adapter.name}
        if variant == "rag" and (index := folder.index.active()) is not None:
            built["index_version"] = index.name
        save_remedy(folder.remedy_path, remedy.model_copy(update=built))
    end_canary(folder)


def _tell(folder: UseCaseFolder, canary: Canary | None, as_json: bool) -> None:
    control = control_arm(folder)
    if canary is None:
        document: dict[str, Any] = {"use_case": folder.name, "in_force": control, "canary": None}
        text = f"{folder.name}: no canary; all requests go to what is in force ({control})"
    else:
        counted = tallies(folder, canary.started)
        arms = [_row(arm, counted.get(arm, Tally())) for arm in dict.fromkeys((control, canary.arm))]
        shown = {"arm": canary.arm, "share": canary.share, "started": canary.started}
        document = {"use_case": folder.name, "in_force": control, "canary": shown, "arms": arms}
        if (difference := _difference(counted, canary.arm, control)) is not None:
            document["difference"] = difference
        text = _text(document)
    click.echo(json.dumps(document) if as_json else text)


def _row(arm: str, tally: Tally) -> dict[str, Any]:
    from core.stats import wilson

    row: dict[str, Any] = {"arm": arm, "requests": tally.requests, "judged": tally.judged, "good": tally.good}
    if tally.judged:
        rate = wilson(tally.good, tally.judged)
        row |= {"rate": rate.value, "low": rate.low, "high": rate.high}
    return row


def _difference(counted: dict[str, Tally], arm: str, control: str) -> dict[str, float] | None:
    """Share of good answers, canary less control, where both were judged."""
    from core.stats import newcombe_unpaired, unpaired_p

    a, b = counted.get(arm, Tally()), counted.get(control, Tally())
    if arm == control or not a.judged or not b.judged:
        return None
    found = newcombe_unpaired(a.good, a.judged, b.good, b.judged)
    p = unpaired_p(a.good, a.judged, b.good, b.judged)
    return {"value": found.value, "low": found.low, "high": found.high, "p": p}


def _text(document: dict[str, Any]) -> str:
    canary = document["canary"]
    lines = [
        f"{document['use_case']}: {100 * canary['share']:g} % of the requests go to {canary['arm']}, the rest to"
        f" {document['in_force']}, since {canary['started']}"
    ]
    for row in document["arms"]:
        judged = f"{row['good']} of {row['judged']} good"
        if row["judged"]:
            judged += f" ({row['rate']:.0%} [{row['low']:.0%}, {row['high']:.0%}])"
        lines.append(
            f"  {row['arm']:<9} {row['requests']} requests logged, {judged if row['judged'] else 'none judged'}"
        )
    if (found := document.get("difference")) is not None:
        points = [f"{100 * found[key]:+.0f}" for key in ("value", "low", "high")]
        lines.append(f"  difference {points[0]} points [{points[1]}, {points[2]}], p = {found['p']:.2g}")
    return "\n".join(lines)

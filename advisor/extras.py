"""What a run adds to report.json beside verdict and arms: its steps, its budget, what it broke, what failed.

Keys: `sequential`, `budget`, `learning_curve`, `harm`, `failures`, `retries`; each is there in every report, null or empty where
it does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advisor.arm_names import REMEDIES, family
from advisor.budget import Budget
from advisor.learning_curve import Curve
from advisor.looks import Progress, tally
from advisor.needs import Need

MOST_LISTED = 50
"""Broken items that are listed by arm; all are in outcomes.jsonl."""


def extras(
    rows: Sequence[Mapping[str, Any]],
    steps: Progress,
    budget: Budget,
    curves: Sequence[Curve],
    full: bool,
    again: Mapping[str, int],
) -> dict[str, Any]:
    """Those keys, as plain JSON values; `rows` are the run's outcome rows, `again` what `retries` is made of."""
    return {
        "sequential": {"full": full, **tally(steps), "why": sentence(steps, full)},
        "budget": budget.document(),
        "learning_curve": [curve.document() for curve in curves] or None,
        "harm": broken(rows),
        "failures": _failures(rows),
        "retries": retries(again),
    }


def sentence(steps: Progress, full: bool) -> str:
    """How many calls the run made and why it ended."""
    if steps.calls == steps.full_calls:
        return f"Every arm was asked every item: {steps.calls} calls."
    saved = steps.full_calls - steps.calls
    ends = {
        "verdict": "the verdict stood",
        "futility": "the rest could hardly settle it",
        "budget": "the budget was used up",
        "all_items": "all items were asked",
    }
    looks = max(1, len(steps.looks))
    level = f"a gain must show p of at most {steps.alpha:.3g}"
    if looks > 1:
        level = f"After {looks} looks {level}, so that all looks together err as rarely as one"
    return (
        f"Asked in steps: {steps.calls} of {steps.full_calls} calls, then {ends[steps.stopped_by]}; "
        f"{saved} calls ({saved / max(steps.full_calls, 1):.0%}) were saved. {level[0].upper()}{level[1:]}."
    )


def out_of_budget(steps: Progress) -> list[Need]:
    """The calls that a budget left unasked, at most."""
    if steps.stopped_by != "budget":
        return []
    why = "the budget ended the run; the same command with a larger one goes on, and stops once the verdict stands"
    return [Need("calls", steps.full_calls - steps.calls, why)]


def broken(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By arm, the items that the base had right, or refused, and that the arm has wrong."""
    closed = {row["item"]: row["outcome"] for row in rows if family(row["arm"]) == "closed"}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        was, is_ = closed.get(row["item"]), row["outcome"]
        if family(row["arm"]) not in REMEDIES or was in (None, "error") or is_ in (None, "error"):
            continue
        entry = found.setdefault(row["arm"], {"arm": row["arm"], "n": 0, "broken": 0, "items": []})
        entry["n"] += 1
        if (was == "correct" and is_ != "correct") or (was == "refused" and is_ == "wrong"):
            entry["broken"] += 1
            if len(entry["items"]) < MOST_LISTED:
                entry["items"].append({"item": row["item"], "was": was, "is": is_})
    return [entry for entry in found.values() if entry["broken"]]


def retries(again: Mapping[str, int]) -> dict[str, Any] | None:
    """How many requests an endpoint was sent beside those that it answered, by arm (and `judge`); None where none."""
    by_arm = {arm: n for arm, n in again.items() if n > 0}
    total = sum(by_arm.values())
    if not total:
        return None
    listed = ", ".join(f"{arm} {n}" for arm, n in by_arm.items())
    return {
        "requests": total,
        "by_arm": by_arm,
        "text": (
            f"{total} requests were sent again after the endpoint had failed ({listed}). Tokens and money count what it "
            "reported for its answers; whether it bills the failed requests too it does not say."
        ),
    }


def _failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    errors: dict[str, int] = {}
    for row in rows:
        if row["outcome"] == "error":
            errors[row["arm"]] = errors.get(row["arm"], 0) + 1
    if not errors:
        return None
    total = sum(errors.values())
    return {
        "errors": errors,
        "text": f"{total} calls failed; they count in no rate, and the same command asks them again.",
    }

"""When a tuned model pays for itself: break-even queries from what was measured, as decision.md has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from advisor.arm_names import family


class BreakEven(NamedTuple):
    """A tuned arm against an arm that carries more in its prompt instead."""

    arm: str
    against: str
    build_usd: float
    """Training the arm once."""
    eval_usd: float
    """Measuring every arm of the run."""
    saving_usd_per_1k: float
    """What the arm saves per 1,000 queries; negative where it costs more."""
    queries: int | None
    """From here on the arm is the cheaper one; None: never, by price."""
    queries_per_usd: float | None
    """How much later for each dollar that is spent besides, on labelling say; None: never."""
    text: str


def break_even(arms: Sequence[Mapping[str, Any]], eval_usd: float) -> list[BreakEven]:
    """N* = (train + eval cost) / (saving per query), for the best tuned arm against each kind of prompting and retrieval.

    decision.md writes the saving as extra input tokens x price + retrieval cost per query; with both arms measured it is
    the difference of their prices. Labelling is not known to the run: `queries_per_usd` says what it adds.

    Args:
        arms: rows of the report with `name`, `rate`, `usd_per_1k`, `build_usd`; rows without prices are left out.
    """
    priced = [row for row in arms if row.get("usd_per_1k") is not None and row.get("rate") is not None]
    tuned = _best(priced, "tune")
    if tuned is None:
        return []
    found = []
    for kind in ("few_shot", "retrieved", "tune_retrieved"):
        other = _best(priced, kind)
        if other is not None:
            found.append(_against(tuned, other, eval_usd))
    return found


def _against(tuned: Mapping[str, Any], other: Mapping[str, Any], eval_usd: float) -> BreakEven:
    saving = float(other["usd_per_1k"]) - float(tuned["usd_per_1k"])
    build = float(tuned.get("build_usd") or 0.0)
    queries, per_usd = None, None
    if saving > 0:
        queries, per_usd = math.ceil(1000 * (build + eval_usd) / saving), 1000 / saving
        text = f"{tuned['name']} is the cheaper one from {queries:,} queries on"
    else:
        dearer = "costs more" if saving < 0 else "costs no less"
        text = f"{tuned['name']} never pays back by price: a query {dearer} than with {other['name']}"
    behind = float(other["rate"]) - float(tuned["rate"])
    if behind > 0:
        text += f"; it answers {100 * behind:.1f} points fewer items right"
    return BreakEven(str(tuned["name"]), str(other["name"]), build, eval_usd, saving, queries, per_usd, text + ".")


def _best(rows: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return max((row for row in rows if family(row["name"]) == kind), key=lambda row: float(row["rate"]), default=None)

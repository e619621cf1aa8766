"""Accuracy with and without the items that some arm may have seen, and whether the verdict hangs on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from advisor.checks import LEAKS, Finding
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.reasons import Notice
from advisor.rule import DecisionSettings
from advisor.verdict import ArmSummary, Verdict, decide

SHOWN = 5


class Contamination(NamedTuple):
    items: Mapping[str, tuple[str, ...]]
    """Contaminated eval item -> codes of the findings that say so."""
    total: int
    """Items of the table."""
    verdict: Verdict
    """On all items: the one in force."""
    without: Verdict | None
    """On the other items; None where none are left."""

    @property
    def changes(self) -> bool:
        """Whether the route would be another without the contaminated items."""
        return self.without is not None and self.without.route != self.verdict.route

    def notice(self) -> Notice:
        """A warning with the arm whose rate changes most."""
        head = f"{len(self.items)} of {self.total} items are contaminated ({_counts(self.items)}: {_some(self.items)})"
        if self.without is None:
            return Notice("leakage", f"{head}: no item is left to check the verdict on; give clean ones.")
        moved = max(self._moves(), key=lambda move: abs(move[1] - move[2]), default=None)
        rates = "" if moved is None else f"without them {moved[0]} goes from {moved[1]:.1%} to {moved[2]:.1%} and "
        said = (
            f"the verdict would be {self.without.route}, not {self.verdict.route}: take them out before acting on it"
            if self.changes
            else f"the verdict stays {self.verdict.route}"
        )
        return Notice("leakage", f"{head}: {rates}{said}.")

    def document(self) -> dict[str, Any]:
        """For report.json."""
        without = self.without
        return {
            "items": {item: list(codes) for item, codes in self.items.items()},
            "n": len(self.items),
            "of": self.total,
            "arms": {
                arm: {"with": _rate(found), "without": None if without is None else _rate(without.arms.get(arm))}
                for arm, found in self.verdict.arms.items()
            },
            "verdict_without": None
            if without is None
            else {"route": without.route, "method": without.method, "confidence": without.confidence},
            "verdict_changes": self.changes,
        }

    def _moves(self) -> list[tuple[str, float, float]]:
        assert self.without is not None
        pairs = [(arm, found, self.without.arms.get(arm)) for arm, found in self.verdict.arms.items()]
        return [
            (arm, a.rate, b.rate) for arm, a, b in pairs if b is not None and a.rate is not None and b.rate is not None
        ]


def contamination(
    findings: Sequence[Finding], rows: Sequence[OutcomeRow], verdict: Verdict, settings: DecisionSettings
) -> Contamination | None:
    """What the leaks among `findings` do to `verdict`, which was made from `rows`; None where there are none."""
    measured = dict.fromkeys(row.item for row in rows)
    codes: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.code in LEAKS:
            for item in finding.items:
                codes[item].append(finding.code)
    items = {item: tuple(codes[item]) for item in measured if item in codes}
    if not items:
        return None
    clean = [row for row in rows if row.item not in items]
    without = decide(OutcomeTable.from_rows(clean), settings) if clean else None
    return Contamination(items, len(measured), verdict, without)


def _counts(items: Mapping[str, Sequence[str]]) -> str:
    names = {
        "leakage": "in the training rows",
        "near_leakage": "nearly in the training rows",
        "question_in_corpus": "question and answer in a document",
    }
    counts: dict[str, int] = defaultdict(int)
    for codes in items.values():
        for code in codes:
            counts[code] += 1
    return ", ".join(f"{n} {names.get(code, code)}" for code, n in counts.items())


def _some(items: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(list(items)[:SHOWN]) + (", ..." if len(items) > SHOWN else "")


def _rate(found: ArmSummary | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"n": found.n, "correct": found.correct, "rate": found.rate, "low": found.low, "high": found.high}

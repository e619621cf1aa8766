"""An eval set asked in steps: which arm is asked how many items by each look, until the verdict stands.

The arms that can settle the verdict soonest come first. `schedule` is a generator that says what to ask next and is
told the table that came of it; who asks (an engine, a cache, a simulation) is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, sqrt
from typing import Any

from scipy.special import ndtr

from advisor import arm_names as arms
from advisor.case import Case
from advisor.evidence import rate
from advisor.findings import NEAR_TARGET
from advisor.outcomes import OutcomeTable
from advisor.rule import DecisionSettings, Route
from advisor.sequence import HOPELESS, Review, review
from advisor.spending import look_sizes, nominal_levels

FIRST = (arms.CLOSED, arms.PROMPT, arms.FEW_SHOT, arms.ORACLE, arms.TUNE)
"""One arm a question; the arms that refine an answer wait until the question is open at the second look."""

FEWEST_GAINED = 6

BESIDE = 1 / 3
"""Share of a look's items that an arm is asked which is no remedy: it is there to be seen, not for the verdict."""


@dataclass(frozen=True)
class Step:
    """Ask each arm until it has answered the first `items` items of the run's order."""

    arms: tuple[str, ...]
    items: int


@dataclass
class Progress:
    """How a run in steps went; filled while it runs."""

    items: int
    planned: tuple[str, ...]
    asked: dict[str, int] = field(default_factory=dict)
    """Items each arm was asked."""
    looks: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arm -> items at which it was dropped, and why."""
    stopped_by: str = "all_items"
    alpha: float = 0.05
    """Level of the last look: what the verdict must be read at."""

    @property
    def calls(self) -> int:
        return sum(self.asked.values())

    @property
    def full_calls(self) -> int:
        return self.items * len(self.planned)


def schedule(
    progress: Progress, now: Callable[[], DecisionSettings], dear: Sequence[str] = ()
) -> Generator[Step, OutcomeTable, None]:
    """Steps to ask; send the table of everything answered so far after each. Ends when the verdict stands.

    Args:
        now: the settings as they are known by now: what an arm costs is measured on the way.
        dear: arms that cost much before their first answer (a pilot has to be trained); they wait for the second look.
    """
    sizes = look_sizes(progress.items)
    levels = nominal_levels(sizes, now().alpha)
    waiting = [arm for arm in progress.planned if not _opens(arm, progress.planned, dear)]
    running = [arm for arm in progress.planned if arm not in waiting]
    beside = tuple(arm for arm in running if arms.family(arm) not in (arms.CLOSED, *arms.REMEDIES))
    closed = tuple(arm for arm in running if arms.family(arm) == arms.CLOSED)
    running = [arm for arm in running if arm not in closed + beside]
    alone = True
    for look, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        last = size == sizes[-1]
        progress.alpha = level
        table = yield from _ask(progress, closed, size)
        if alone:
            # A base that is right on nearly everything is looked at alone: if it meets the target, no arm can pay.
            settings = now()
            meets = _meets(table, closed, settings)
            alone = meets and not last
            if meets and _no_room(table, closed, settings, progress.items):
                _record(progress, size, level, "base")
                _stop(progress, "verdict", None, size)
                return
            if alone:
                _record(progress, size, level, "undecided")
                continue
        if beside:
            table = yield from _ask(progress, beside, max(sizes[0], ceil(BESIDE * size)))
        due = tuple(arm for arm in running if arm not in progress.asked)
        while True:
            if due:
                following = min(next(s for s in sizes if s > progress.asked.get(arm, 0)) for arm in due)
                table = yield from _ask(progress, due, following)
            found = review(Case(table, replace(now(), alpha=level)), progress.items, _families(waiting))
            if found.stop is not None:
                # What the verdict acts on must have shown it on all items of this look, at this look's level.
                due = _short(progress, found, running, size, (found.leader,))
                if not due:
                    break
                continue
            due = _due(progress, found, running, size, last)
            if not due and (look > 0 or last or not running):
                due = tuple(arm for arm in waiting if arms.family(arm) in found.live)
                running += due
                waiting = [arm for arm in waiting if arm not in due]
            if not due:
                break
        _record(progress, size, level, found.route)
        if found.stop is not None or last:
            _stop(progress, found.stop if found.stop and not last else "all_items", found, size)
            return


def _due(progress: Progress, found: Review, running: Sequence[str], size: int, last: bool) -> tuple[str, ...]:
    """The arms to ask more of the items of this look, before the next."""
    for family in found.hopeful if found.leader is None else (found.leader,):
        if mine := _short(progress, found, running, size, (family,)):
            return mine
        if found.leader is None and not last:
            # The likeliest to gain has come this far: on to the next look, and the others wait until it has.
            return ()
    return _short(progress, found, running, size, found.live)


def _short(
    progress: Progress, found: Review, running: Sequence[str], size: int, families: Collection[str | None]
) -> tuple[str, ...]:
    """Arms of those families that were not asked all items of this look, less variants that are behind."""
    return tuple(
        arm
        for arm in running
        if progress.asked[arm] < size and arms.family(arm) in families and arm not in found.behind
    )


def _ask(progress: Progress, names: tuple[str, ...], size: int) -> Generator[Step, OutcomeTable, OutcomeTable]:
    table = yield Step(names, size)
    for arm in names:
        progress.asked[arm] = max(size, progress.asked.get(arm, 0))
    return table


def _stop(progress: Progress, by: str, found: Review | None, size: int) -> None:
    """Note what ended the run, and why arms ended with fewer items than the last look."""
    progress.stopped_by = by
    for arm in progress.planned:
        if progress.asked.get(arm, 0) < size:
            why = found.why.get(arms.family(arm)) if found else None
            if found and arm in found.behind:
                why = "another variant is ahead of it"
            elif arms.family(arm) not in (arms.CLOSED, *arms.REMEDIES):
                why = "it is no remedy, and is asked a part of the items to be seen beside them"
            progress.dropped[arm] = {
                "items": progress.asked.get(arm, 0),
                "why": why or "the verdict stood before it was its turn",
            }


def _opens(arm: str, planned: Sequence[str], dear: Sequence[str]) -> bool:
    kind = arms.family(arm)
    if arm in dear:
        return False
    if kind == arms.RETRIEVED:
        return not any(arms.family(other) == arms.ORACLE for other in planned)
    return kind in FIRST or kind not in arms.REMEDIES


def _families(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arms.family(arm) for arm in names))


def _meets(table: OutcomeTable, closed: Sequence[str], settings: DecisionSettings) -> bool:
    return all(table.counts(arm).n > 0 and rate(table, arm).value >= settings.target for arm in closed)


def _no_room(table: OutcomeTable, closed: Sequence[str], settings: DecisionSettings, items: int) -> bool:
    """The base meets the target, and hardly enough items can come out wrong for any arm to show a gain.

    An arm gains at most what the base has wrong, and fewer than six items gained cannot be significant, whatever
    their number (two-sided exact p = 2 / 2**5 > 0.05).
    """
    for arm in closed:
        base = rate(table, arm)
        spread = (base.high - base.low) / 3.92 * sqrt(max(0.0, 1 - base.n / items))
        least = max(settings.delta, FEWEST_GAINED / items)
        if base.low < settings.target - NEAR_TARGET * settings.delta:
            return False
        if (spread == 0 and 1 - base.value >= least) or (
            spread > 0 and ndtr((1 - base.value - least) / spread) > HOPELESS
        ):
            return False
    return True


def _record(progress: Progress, size: int, level: float, route: Route) -> None:
    progress.looks.append({"items": size, "calls": progress.calls, "alpha": round(level, 6), "route": route})


def tally(progress: Progress) -> Mapping[str, Any]:
    """The `sequential` part of report.json, less its sentence."""
    saved = progress.full_calls - progress.calls
    return {
        "full_calls": progress.full_calls,
        "calls": progress.calls,
        "saved_calls": saved,
        "saved_share": round(saved / progress.full_calls, 4) if progress.full_calls else 0.0,
        "stopped_by": progress.stopped_by,
        "looks": progress.looks,
        "dropped": [{"arm": arm, **found} for arm, found in progress.dropped.items()],
    }

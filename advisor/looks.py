"""An eval set asked in steps: which arm is asked how many items by each look, until the verdict stands.

The arms that can settle the verdict soonest come first. `schedule` is a generator that says what to ask next and is
told the table that came of it; who asks (an engine, a cache, a simulation) is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
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
    alone = True
    best: str | None = None
    for look, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        last = size == sizes[-1]
        if alone:
            closed = tuple(arm for arm in running if arms.family(arm) == arms.CLOSED)
            table = yield from _ask(progress, closed, size)
            # A base that is right on nearly everything is looked at alone: if it meets the target, no arm can pay.
            settings = now()
            meets = _meets(table, closed, settings)
            alone = meets and not last
            if meets and _no_room(table, closed, settings, progress.items):
                _record(progress, size, level, "base")
                progress.stopped_by = "verdict"
                progress.alpha = level
                _short(progress, {}, size)
                return
            if alone:
                _record(progress, size, level, "undecided")
                continue
        found = None
        if look > 0 and best is not None:
            # The arm that is nearest to being shown goes ahead: where it is shown, most others need no more items.
            ahead = tuple(arm for arm in running if arms.family(arm) in (arms.CLOSED, best))
            table = yield from _ask(progress, ahead, size)
            found = review(Case(table, replace(now(), alpha=level)), progress.items, _families(waiting))
            rest = tuple(arm for arm in running if arm not in ahead and _alive(arm, found))
        else:
            rest = tuple(running)
        if rest and (found is None or found.stop is None):
            table = yield from _ask(progress, rest, size)
            found = review(Case(table, replace(now(), alpha=level)), progress.items, _families(waiting))
        assert found is not None
        best = found.best
        if found.stop is None and waiting and (look > 0 or last or len(running) == 1):
            joining = [arm for arm in waiting if arms.family(arm) in found.live]
            if joining:
                table = yield from _ask(progress, tuple(joining), size)
                running += joining
                waiting = [arm for arm in waiting if arm not in joining]
                found = review(Case(table, replace(now(), alpha=level)), progress.items, _families(waiting))
        _record(progress, size, level, found.route)
        progress.alpha = level
        for arm in [*running, *waiting]:
            if not _alive(arm, found) and not (last and arm in running) and found.stop is None:
                progress.dropped[arm] = {
                    "items": progress.asked.get(arm, 0),
                    "why": "another variant is ahead of it"
                    if arm in found.behind
                    else found.why.get(arms.family(arm), "it cannot change the verdict any more"),
                }
        if found.stop is not None or last:
            progress.stopped_by = "all_items" if last or found.stop is None else found.stop
            _short(progress, found.why, size)
            return
        running = [arm for arm in running if _alive(arm, found)]
        waiting = [arm for arm in waiting if _alive(arm, found)]


def _ask(progress: Progress, names: tuple[str, ...], size: int) -> Generator[Step, OutcomeTable, OutcomeTable]:
    table = yield Step(names, size)
    for arm in names:
        progress.asked[arm] = max(size, progress.asked.get(arm, 0))
    return table


def _alive(arm: str, found: Review) -> bool:
    """An arm that is no remedy was asked for to see how it fares, not for the verdict: it goes on while the run does."""
    if arm in found.behind:
        return False
    return arms.family(arm) in found.live or arms.family(arm) not in (arms.CLOSED, *arms.REMEDIES)


def _short(progress: Progress, why: Mapping[str, str], size: int) -> None:
    """Note why arms ended with fewer items than the last look."""
    for arm in progress.planned:
        if progress.asked.get(arm, 0) < size and arm not in progress.dropped:
            reason = why.get(arms.family(arm), "the verdict stood before it was its turn")
            progress.dropped[arm] = {"items": progress.asked.get(arm, 0), "why": reason}


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

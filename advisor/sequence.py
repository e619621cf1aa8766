"""Which arms are worth more items: read at each look of a growing table, so that a run stops when its verdict stands.

An arm is asked no further once it can hardly change the verdict on the rest of the items ("live" is the opposite).
The chance is a prediction (Lan and Wittes 1988, Biometrics 44:579): were today's gain and its standard error all there is
to know, how would the gain on all items be spread? Whether an arm gains at all is asked with a flat prior, for an arm given
up too early is power lost; whether it displaces a remedy that has shown its gain, with the prior of the confidence (half of
all arms do nothing beyond the simpler one). Stopping for want of hope cannot raise the chance of a false gain; what a gain
must show at a look is `spending.nominal_levels`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betainc, expit, ndtr

from advisor import arm_names as arms
from advisor.case import SHARE_OF_ITEMS, Case, Key
from advisor.evidence import TYPICAL_GAIN, Comparison, Side, at_least, compare, rate, side
from advisor.findings import NEAR_TARGET, tested
from advisor.quantities import READY_SHARE
from advisor.rule import ROUTES, Route, choose
from core.stats import paired_difference

HOPELESS = 0.05
"""A chance below this is none."""


class Limits(NamedTuple):
    """Chances below which more items are not asked; measured in docs/decisions/0006."""

    gain: float
    """That an arm shows a gain: a lower limit costs calls, a higher one power."""
    displace: float
    """That an arm displaces the remedy that has shown its gain."""
    none: float
    """That all items rule out every arm, so that the verdict is `none`."""


SMALL = 150
FEW_ITEMS, MANY_ITEMS = Limits(0.03, 0.10, 0.5), Limits(HOPELESS, 0.03, 0.1)
"""Limits up to SMALL items, where each item counts for the power and few sets can show `none`, and beyond."""
HARM_SEEN = 0.3
"""Share of the items before which an arm that breaks much is not given up yet."""
READY_OPEN = 0.25
"""Whether retrieval is ready counts as open while the rest of the items may turn it with at least this chance."""
TOGETHER = 0.45
"""Arms share the base's answers, so they are ruled out together or not at all more often than independent ones would be:
with gains correlated by a half, the chance of all six is about this power of the product of their chances."""
_CRITICAL = 1.96

Stop = Literal["verdict", "futility"]


@dataclass(frozen=True)
class Review:
    """What a look found."""

    route: Route
    stop: Stop | None
    """`verdict`: the route stands. `futility`: the rest of the items would hardly settle it. None: go on."""
    live: frozenset[str]
    """Families that more items could still tell something about; `closed` whenever another is live."""
    why: Mapping[str, str] = field(default_factory=dict)
    """Why a family is not live, by family."""
    leader: str | None = None
    """The family that has shown a gain and would be the route, as far as is known."""
    hopeful: tuple[str, ...] = ()
    """Where nothing has shown a gain: live families that may, the likeliest first."""
    behind: frozenset[str] = frozenset()
    """Variants that can hardly become their family's best any more."""


def review(case: Case, items: int, pending: Collection[str] = ()) -> Review:
    """What `case`, a part of an eval set of `items`, leaves open.

    `case.settings.alpha` is the level of this look.

    Args:
        pending: families that are planned and were not asked yet.
    """
    if case.closed_arm is None:
        # Nothing to compare with yet: the base's calls failed.
        return Review("undecided", None, frozenset((*map(arms.family, case.table.names), *pending)))
    route = ROUTES[int(choose(tested(case), case.settings, case.cheaper)[0])]
    look = _Look(case, items)
    leader = _leader(case, route)
    found = _unsettled(look, route, pending) if leader is None else _leading(look, route, leader, pending)
    return replace(found, behind=frozenset(_behind(look)))


def _leader(case: Case, route: Route) -> str | None:
    families: dict[str, str] = {
        "prompt": arms.PROMPT,
        "few-shot": arms.FEW_SHOT,
        "rag": case.rag_arm or arms.ORACLE,
        "tune": arms.TUNE,
        "rag+tune": case.combined or arms.TUNE_RETRIEVED,
    }
    if route in families:
        return families[route]
    # A gain over the base that is not shown over its rival yet.
    gained = [family for family, measure in case.gates if measure == "correct" and case.gains((family, measure))]
    return max(gained, key=lambda family: case.gates[family, "correct"].gain.value) if gained else None


def _behind(look: _Look) -> list[str]:
    case, out = look.case, []
    for family in case.measured:
        counts = {arm: case.table.counts(arm).n for arm in case.scored if arms.family(arm) == family}
        if len(counts) < 2 or family == arms.CLOSED:
            continue
        covered = [arm for arm, n in counts.items() if n >= SHARE_OF_ITEMS * max(counts.values())]
        first = max(covered, key=lambda arm: rate(case.table, arm).value)
        for arm in counts:
            against = compare(case.table, side(case.table, arm), side(case.table, first))
            if arm != first and against is not None and look.reaches(against, _least(case, arm)) < HOPELESS:
                out.append(arm)
    return out


def _least(case: Case, arm: str) -> float:
    """How far a variant must be ahead to stand for its family: a head may be behind by delta, an adapter must lead by it."""
    if arms.family(arm) != arms.TUNE:
        return 0.0
    return -case.settings.delta if arms.tuning_method(arm) == "head" else case.settings.delta


def _leading(look: _Look, route: Route, leader: str, pending: Collection[str]) -> Review:
    """A remedy has shown its gain: what could still displace it?"""
    case, delta = look.case, look.case.settings.delta
    if leader not in case.measured:
        # Retrieval by constraint, with no retrieval arm yet.
        return Review(route, None, frozenset((arms.CLOSED, leader, *pending)), leader=leader)
    ahead = case.measured[leader]
    live: set[str] = set()
    why: dict[str, str] = {}
    for family, item in case.measured.items():
        if family in (arms.CLOSED, leader):
            continue
        if look.excluded(family):
            why[family] = "it is harmful, or over a hard limit"
            continue
        against = compare(case.table, item, ahead)
        if against is None or look.matters(family, leader, route, against):
            live.add(family)
        else:
            why[family] = f"it can hardly displace {ahead.name} any more"
    if route == "undecided":
        live |= look.rivals_open()
    if route == "rag" and arms.RETRIEVED in pending:
        live.add(arms.RETRIEVED)
    if route == "rag":
        live |= look.readiness_open()
    top = rate(case.table, ahead.ship)
    for family in pending:
        if family not in live:
            if top.low > 1 - delta:
                why[family] = f"{ahead.name} leaves less than {100 * delta:g} points to gain"
            elif family in (arms.ORACLE, arms.ORACLE_FEW_SHOT) and route in ("rag", "rag+tune"):
                why[family] = "retrieval has shown its gain without it"
            else:
                live.add(family)
    if not live:
        return Review(route, "futility" if route == "undecided" else "verdict", frozenset(), why, leader)
    return Review(route, None, frozenset((arms.CLOSED, leader, *live)), why, leader)


def _unsettled(look: _Look, route: Route, pending: Collection[str]) -> Review:
    """Nothing has shown a gain: what still may, and can everything still be ruled out?"""
    case = look.case
    room = look.headroom()
    if route == "none" and not pending:
        return Review(route, "verdict", frozenset())
    hopes: dict[str, float] = {}
    why: dict[str, str] = {}
    for family in case.measured:
        if family == arms.CLOSED:
            continue
        if look.excluded(family):
            why[family] = "it is harmful, or over a hard limit"
        elif (hope := min(room, look.hope(family))) > look.limits.gain:
            hopes[family] = hope
        else:
            why[family] = "its gain can hardly reach delta any more"
    hopeful = tuple(sorted(hopes, key=lambda family: -hopes[family]))
    live = set(hopeful)
    if room > HOPELESS:
        live |= set(pending)
    else:
        why |= dict.fromkeys(pending, "the base leaves too little to gain")
    if route == "base":
        open_ = bool(live)
    else:
        if look.chance_of_none() > look.limits.none:
            still = {family for family in case.allowed if family != arms.CLOSED and not look.ruled_out(family)}
            live |= still
            why = {family: text for family, text in why.items() if family not in still}
        open_ = bool(live) or look.may_meet_target()
    if not open_:
        return Review(route, "verdict" if route == "base" else "futility", frozenset(), why)
    return Review(route, None, frozenset((arms.CLOSED, *live)), why, hopeful=hopeful)


@dataclass(frozen=True)
class _Look:
    case: Case
    items: int

    @property
    def limits(self) -> Limits:
        return FEW_ITEMS if self.items <= SMALL else MANY_ITEMS

    def matters(self, family: str, leader: str, route: Route, against: Comparison) -> bool:
        """Whether `family` may still keep `leader` from being the route; `against` compares it with the leader."""
        delta = self.case.settings.delta
        knowledge = (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.RETRIEVED)
        combined = (arms.TUNE_RETRIEVED, arms.TUNE_ORACLE)
        prompts = (arms.PROMPT, arms.FEW_SHOT)
        if family in combined:
            return min(self.hope(family), self.overtakes(against, self._needed(against))) > self.limits.displace
        if leader in combined:
            # Every single remedy is a rival that the combination must beat by delta.
            return family not in _unshippable(self.case) and self.overtakes(against, -delta) > self.limits.displace
        if route == "rag" and family in knowledge:
            return False
        if family in knowledge and family in _unshippable(self.case):
            # Gold passages tell whether retrieval is a candidate; our retriever tells how it ranks.
            return (
                arms.RETRIEVED not in self.case.measured
                and min(self.hope(family), self.overtakes(against, self._needed(against))) > self.limits.displace
            )
        if family in prompts and (leader not in prompts or leader == arms.FEW_SHOT):
            # The simpler remedy stays, unless it is behind by delta.
            return min(self.hope(family), self.overtakes(against, -delta)) > self.limits.displace
        ahead = (
            self.overtakes(against, self._needed(against)) if leader in prompts else self.overtakes(against, delta / 2)
        )
        return min(self.hope(family), ahead) > self.limits.displace

    def excluded(self, family: str) -> bool:
        """Over a hard limit, or harmful on more than the first few items, which may say so by chance."""
        ship = self.case.measured[family].ship
        if ship in self.case.barred:
            return True
        return ship in self.case.harmful and self.case.table.counts(ship).n >= HARM_SEEN * self.items

    def rivals_open(self) -> set[str]:
        """Rivals that a gain over the base is not shown over yet, though more items may show it."""
        case = self.case
        return {
            arms.family(rival.against)
            for rival in case.rivals.values()
            if self.overtakes(rival, case.settings.delta) > HOPELESS
        } & set(case.allowed)

    def hope(self, family: str) -> float:
        """Chance that the family's gain over the base is shown on all items."""
        return max((self.shows(self.case.gates[key]) for key in self._keys(family)), default=1.0)

    def ruled_out(self, family: str) -> bool:
        return all(self.case.gates[key].gain.high < self.case.settings.delta for key in self._keys(family))

    def chance_of_none(self) -> float:
        """Chance that all items rule out every usable arm."""
        case = self.case
        if not case.knowledge_settled:
            return 0.0
        product = 1.0
        for (family, _), gate in case.gates.items():
            if family in case.allowed and not gate.gain.high < case.settings.delta:
                mean, spread, error = self._predicted(gate)
                product *= float(ndtr((case.settings.delta - _CRITICAL * error - mean) / spread))
        return float(product**TOGETHER)

    def headroom(self) -> float:
        """Chance that the base leaves delta to gain at all."""
        case = self.case
        if case.table.graded:
            return 1.0
        base = rate(case.table, case.closed.ship)
        wrong = (1 - base.value) * base.n
        return float(1 - betainc(wrong + 0.5, base.n - wrong + 0.5, case.settings.delta))

    def may_meet_target(self) -> bool:
        """Whether more items of the base alone may show that it meets the target."""
        case = self.case
        base = rate(case.table, case.closed.ship)
        floor = case.settings.target - NEAR_TARGET * case.settings.delta
        return base.n < self.items and base.high >= case.settings.target and base.low < floor

    def readiness_open(self) -> set[str]:
        """The arms that must go on to tell whether our retriever is ready (verdict._ready, by content)."""
        case = self.case
        if arms.RETRIEVED not in case.measured or not case.table.paired:
            return set()
        own = case.measured[arms.RETRIEVED]
        counts = case.table.counts(own.ship)
        if counts.n + counts.error < case.table.counts(case.closed.ship).n:
            return {arms.RETRIEVED}
        gain = compare(case.table, own, case.closed, "content")
        if gain is None:
            return set()
        mean, spread, error = self._predicted(gain)
        if READY_OPEN < ndtr((mean - _CRITICAL * error) / spread) < 1 - READY_OPEN:
            return {arms.RETRIEVED}
        if arms.ORACLE not in case.measured or mean <= 0:
            return set()
        # R >= 0.7 is A4 - 0.7 A3 - 0.3 A0 >= 0, which has a mean and a standard error.
        parts = [np.asarray(side_.content) for side_ in (own, case.measured[arms.ORACLE], case.closed)]
        surplus = parts[0] - READY_SHARE * parts[1] - (1 - READY_SHARE) * parts[2]
        surplus = surplus[~np.isnan(surplus)]
        if surplus.size < 2:
            return {arms.RETRIEVED, arms.ORACLE}
        left = np.sqrt(max(1 - surplus.size / self.items, 1e-9) / surplus.size) * max(float(surplus.std()), 1e-9)
        chance = float(ndtr(surplus.mean() / left))
        return {arms.RETRIEVED, arms.ORACLE} if READY_OPEN < chance < 1 - READY_OPEN else set()

    def overtakes(self, comparison: Comparison, least: float) -> float:
        """Chance that the difference on all items is at least `least`, when half of all arms differ in nothing."""
        gain, error = comparison.gain, self._error(comparison)
        seen = gain.n / self.items
        if seen >= 1:
            return float(at_least(gain.value, least))
        spread = TYPICAL_GAIN**2 / error**2
        z2 = (gain.value / error) ** 2
        idle = float(expit(0.5 * np.log1p(spread) - 0.5 * z2 * spread / (1 + spread)))
        # Variance of the mean of the items to come, beside what is not known of the true difference.
        rest = error**2 * seen / (1 - seen)
        true = gain.value * spread / (1 + spread)
        unknown = TYPICAL_GAIN**2 / (1 + spread)
        met = [
            ndtr((seen * gain.value + (1 - seen) * mean - least) / ((1 - seen) * np.sqrt(rest + variance)))
            for mean, variance in ((0.0, 0.0), (true, unknown))
        ]
        return float(idle * met[0] + (1 - idle) * met[1])

    def reaches(self, comparison: Comparison, least: float) -> float:
        """Chance that the difference on all items is at least `least`."""
        mean, spread, _ = self._predicted(comparison)
        return float(ndtr((mean - least) / spread))

    def shows(self, comparison: Comparison) -> float:
        """Chance that the difference is shown to be a gain on all items."""
        return self.reaches(comparison, self._needed(comparison))

    def _needed(self, comparison: Comparison) -> float:
        _, _, error = self._predicted(comparison)
        return max(self.case.settings.delta, _CRITICAL * error)

    def _predicted(self, comparison: Comparison) -> tuple[float, float, float]:
        """Mean and spread of the gain on all items, and the standard error it will have."""
        error = self._error(comparison)
        seen = min(1.0, comparison.gain.n / self.items)
        return comparison.gain.value, max(error * np.sqrt(1 - seen), 1e-9), error * np.sqrt(seen)

    def _error(self, c: Comparison) -> float:
        """Standard error of a difference, half an item gained and half an item lost imagined: read off the interval, an arm
        that changed nothing on twelve items would seem to vary as much as one that changed two."""
        width = c.gain.high - c.gain.low
        if self.case.table.graded or not c.paired or c.gained is None or c.lost is None:
            return max(width / (2 * _CRITICAL), 1e-9)
        n = c.gain.n
        alike = 1.0
        if self.case.table.clusters is not None:
            alike = max(1.0, (width / _alone(c.gained, c.lost, n)) ** 2)
        variance = (c.gained + c.lost + 1) / (n + 1.5) - ((c.gained - c.lost) / (n + 1.5)) ** 2
        return float(np.sqrt(alike * variance / n))

    def _keys(self, family: str) -> list[Key]:
        return [key for key in self.case.gates if key[0] == family]


@lru_cache(maxsize=4096)
def _alone(gained: int, lost: int, n: int) -> float:
    """Width of the interval that these counts would have, did every item stand alone."""
    ours, theirs = np.zeros(n, bool), np.zeros(n, bool)
    ours[:gained] = theirs[gained : gained + lost] = True
    found = paired_difference(ours, theirs)
    return found.high - found.low


def _unshippable(case: Case) -> Mapping[str, Side]:
    """Arms that answer from gold passages: they tell what retrieval could give, and cannot be built."""
    return {f: s for f, s in case.measured.items() if f in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.TUNE_ORACLE)}

"""Which arms are worth more items: read at each look of a growing table, so that a run stops when its verdict stands.

An arm is dropped once it can hardly change the verdict on the rest of the items any more ("live" is the opposite).
The chance is a prediction: were today's gain and its standard error all there is to know, how would the gain on all
items be spread (Lan and Wittes 1988, Biometrics 44:579, with a flat prior on the gain)? Stopping for want of hope
cannot raise the chance of a false gain; what a gain must show at a look is `spending.nominal_levels`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.special import betainc, ndtr

from advisor import arm_names as arms
from advisor.case import SHARE_OF_ITEMS, Case, Key
from advisor.evidence import Comparison, Side, compare, rate, side
from advisor.findings import NEAR_TARGET, tested
from advisor.quantities import READY_SHARE, both_family
from advisor.rule import ROUTES, Route, choose

HOPELESS = 0.05
"""An arm whose chance to change the verdict is below this is dropped."""
NONE_HOPELESS = 0.05
"""Below this chance that every arm is ruled out on all items, the rest is not run for the sake of `none`."""
READY_OPEN = 0.2
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
    best: str | None = None
    """The family that is likeliest to be shown to gain."""
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
    found = _by_route(look, route, pending)
    hopes = {family: look.hope(family) for family in case.allowed if family != arms.CLOSED}
    best = max(hopes, key=lambda family: hopes[family], default=None)
    return replace(found, best=best, behind=frozenset(_behind(look)))


def _behind(look: _Look) -> list[str]:
    case, out = look.case, []
    for family in case.measured:
        counts = {arm: case.table.counts(arm).n for arm in case.scored if arms.family(arm) == family}
        variants = [arm for arm, n in counts.items() if n >= SHARE_OF_ITEMS * max(counts.values())]
        if len(variants) < 2 or family == arms.CLOSED:
            continue
        first = max(variants, key=lambda arm: rate(case.table, arm).value)
        for arm in variants:
            against = compare(case.table, side(case.table, arm), side(case.table, first))
            if arm != first and against is not None and look.reaches(against, _least(case, arm)) < HOPELESS:
                out.append(arm)
    return out


def _least(case: Case, arm: str) -> float:
    """How far a variant must be ahead to stand for its family: a head may be behind by delta, an adapter must lead by it."""
    if arms.family(arm) != arms.TUNE:
        return 0.0
    return -case.settings.delta if arms.tuning_method(arm) == "head" else case.settings.delta


def _by_route(look: _Look, route: Route, pending: Collection[str]) -> Review:
    if route in ("base", "none", "undecided"):
        return _unsettled(look, route, pending)
    return _leading(look, route, pending)


def _leading(look: _Look, route: Route, pending: Collection[str]) -> Review:
    """A remedy has shown its gain: what could still displace it?"""
    case, delta = look.case, look.case.settings.delta
    leader = {
        "prompt": arms.PROMPT,
        "few-shot": arms.FEW_SHOT,
        "rag": case.rag_arm or arms.ORACLE,
        "tune": arms.TUNE,
        "rag+tune": both_family(case.allowed) or arms.TUNE_RETRIEVED,
    }[route]
    if leader not in case.measured:
        # Retrieval by constraint, with no retrieval arm yet.
        return Review(route, None, frozenset((arms.CLOSED, leader, *pending)))
    ahead = case.measured[leader]
    live: set[str] = set()
    why: dict[str, str] = {}
    for family, item in case.allowed.items():
        if family in (arms.CLOSED, leader):
            continue
        against = compare(case.table, item, ahead)
        if against is None or look.matters(family, leader, route, against):
            live.add(family)
        else:
            why[family] = f"it can hardly displace {ahead.name} any more"
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
        return Review(route, "verdict", frozenset(), why)
    return Review(route, None, frozenset((arms.CLOSED, leader, *live)), why)


def _unsettled(look: _Look, route: Route, pending: Collection[str]) -> Review:
    """Nothing has shown a gain: what still may, and can everything still be ruled out?"""
    case = look.case
    room = look.headroom()
    if route == "none" and not pending:
        return Review(route, "verdict", frozenset())
    live: set[str] = set()
    why: dict[str, str] = {}
    for family in case.measured:
        if family == arms.CLOSED:
            continue
        if family not in case.allowed:
            why[family] = "it is harmful, or over a hard limit"
        elif min(room, look.hope(family)) > HOPELESS:
            live.add(family)
        else:
            why[family] = "its gain can hardly reach delta any more"
    if room > HOPELESS:
        live |= set(pending)
    else:
        why |= dict.fromkeys(pending, "the base leaves too little to gain")
    if route == "base":
        open_ = bool(live)
    else:
        if look.chance_of_none() > NONE_HOPELESS:
            still = {family for family in case.allowed if family != arms.CLOSED and not look.ruled_out(family)}
            live |= still
            why = {family: text for family, text in why.items() if family not in still}
        open_ = bool(live) or look.may_meet_target()
    if not open_:
        return Review(route, "verdict" if route == "base" else "futility", frozenset(), why)
    return Review(route, None, frozenset((arms.CLOSED, *live)), why)


@dataclass(frozen=True)
class _Look:
    case: Case
    items: int

    def matters(self, family: str, leader: str, route: Route, against: Comparison) -> bool:
        """Whether `family` may still keep `leader` from being the route; `against` compares it with the leader."""
        delta = self.case.settings.delta
        knowledge = (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.RETRIEVED)
        combined = (arms.TUNE_RETRIEVED, arms.TUNE_ORACLE)
        prompts = (arms.PROMPT, arms.FEW_SHOT)
        if family in combined:
            return min(self.hope(family), self.shows(against)) > HOPELESS
        if leader in combined:
            # Every single remedy is a rival that the combination must beat by delta.
            return family not in _unshippable(self.case) and self.reaches(against, -delta) > HOPELESS
        if route == "rag" and family in knowledge:
            return False
        if family in knowledge and family in _unshippable(self.case):
            # Gold passages tell whether retrieval is a candidate; our retriever tells how it ranks.
            return arms.RETRIEVED not in self.case.measured and min(self.hope(family), self.shows(against)) > HOPELESS
        if family in prompts and (leader not in prompts or leader == arms.FEW_SHOT):
            # The simpler remedy stays, unless it is behind by delta.
            return min(self.hope(family), self.reaches(against, -delta)) > HOPELESS
        ahead = self.shows(against) if leader in prompts else self.reaches(against, delta / 2)
        return min(self.hope(family), ahead) > HOPELESS

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

    def reaches(self, comparison: Comparison, least: float) -> float:
        """Chance that the difference on all items is at least `least`."""
        mean, spread, _ = self._predicted(comparison)
        return float(ndtr((mean - least) / spread))

    def shows(self, comparison: Comparison) -> float:
        """Chance that the difference is shown to be a gain on all items."""
        mean, spread, error = self._predicted(comparison)
        return float(ndtr((mean - max(self.case.settings.delta, _CRITICAL * error)) / spread))

    def _predicted(self, comparison: Comparison) -> tuple[float, float, float]:
        """Mean and spread of the gain on all items, and the standard error it will have."""
        gain = comparison.gain
        error = max((gain.high - gain.low) / (2 * _CRITICAL), 1e-9)
        seen = min(1.0, gain.n / self.items)
        return gain.value, max(error * np.sqrt(1 - seen), 1e-9), error * np.sqrt(seen)

    def _keys(self, family: str) -> list[Key]:
        return [key for key in self.case.gates if key[0] == family]


def _unshippable(case: Case) -> Mapping[str, Side]:
    """Arms that answer from gold passages: they tell what retrieval could give, and cannot be built."""
    return {f: s for f, s in case.measured.items() if f in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.TUNE_ORACLE)}

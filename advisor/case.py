"""A table seen through the rule's eyes: arms that count, gates against the base, rivals, draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from advisor import arm_names as arms
from advisor.evidence import (
    Comparison,
    Draws,
    Measure,
    Side,
    adjust,
    adjust_beside,
    compare,
    draw,
    harm,
    represent,
    side,
    turned_wrong,
)
from advisor.figures import points
from advisor.outcomes import OutcomeTable
from advisor.quantities import best_of, both_family, knowledge_family, prompting, singles
from advisor.rule import ArmCost, DecisionSettings
from core.stats import Estimate

Key = tuple[str, Measure]
"""A family and what is compared."""

SHARE_OF_ITEMS = 0.75

RAG_KEYS: tuple[Key, ...] = (
    (arms.ORACLE, "content"),
    (arms.ORACLE, "correct"),
    (arms.ORACLE_FEW_SHOT, "correct"),
    (arms.RETRIEVED, "content"),
    (arms.RETRIEVED, "correct"),
)
"""What makes retrieval a candidate; K first."""


@dataclass(frozen=True)
class Case:
    """One table under one set of settings; everything derived from them, computed once."""

    table: OutcomeTable
    settings: DecisionSettings

    @cached_property
    def scored(self) -> list[str]:
        """Arms with at least one answer; an arm of errors alone is absent."""
        return [arm for arm in self.table.names if self.table.counts(arm).n > 0]

    @cached_property
    def closed_arm(self) -> str | None:
        return next((arm for arm in self.scored if arms.family(arm) == arms.CLOSED), None)

    @cached_property
    def closed(self) -> Side:
        assert self.closed_arm is not None
        return side(self.table, self.closed_arm)

    @cached_property
    def against_closed(self) -> dict[str, Comparison]:
        """Every other arm against the base, as it stands in the table; p_holm over all of them."""
        others = [arm for arm in self.scored if arm != self.closed_arm]
        found = [compare(self.table, side(self.table, arm), self.closed) for arm in others]
        return {c.arm: c for c in adjust([c for c in found if c is not None])}

    @cached_property
    def harms(self) -> dict[str, Estimate | None]:
        return {arm: harm(self.table, arm, self.closed.ship) for arm in self.against_closed}

    @cached_property
    def harmful(self) -> dict[str, str]:
        """Remedy arms that must not ship, and why: they lose, or break more than is allowed without making up for it.

        An arm that gains at least twice what it breaks is not harmful: strong remedies
        reshuffle some lucky guesses of a weak base.
        """
        out: dict[str, str] = {}
        for arm, comparison in self.against_closed.items():
            if arms.family(arm) not in arms.REMEDIES:
                continue
            broken = self.harms[arm]
            if arms.family(arm) in (arms.ORACLE, arms.ORACLE_FEW_SHOT) and self.table.content_given:
                # Nobody ships an oracle: what it breaks in shape alone is no word against knowledge.
                comparison = compare(self.table, side(self.table, arm), self.closed, "content") or comparison
                broken = harm(self.table, arm, self.closed.ship, "content")
            gain = comparison.gain
            if gain.high < 0:
                out[arm] = (
                    f"{arm} loses {-100 * gain.value:.1f} points to {self.closed.name} "
                    f"(95 % interval {points(gain.low)} to {points(gain.high)}, n = {gain.n})."
                )
            elif broken is not None and self._breaks_too_much(broken, comparison):
                out[arm] = (
                    f"{arm} breaks {broken.value:.0%} of the items (95 % interval {broken.low:.0%} to {broken.high:.0%}, "
                    f"n = {broken.n}; allowed {self.settings.harm_allowed:.0%}) and mends {comparison.gained}: "
                    "items that the base had right, or refused, come out wrong."
                )
        return out

    @cached_property
    def follows_junk(self) -> dict[str, str]:
        """Wrong-passage arms that turn answers of the base wrong; a refusal there is what one wants, so none is counted."""
        out: dict[str, str] = {}
        for arm in (arm for arm in self.against_closed if arms.family(arm) == arms.WRONG_PASSAGE):
            misled = turned_wrong(self.table, arm, self.closed.ship)
            if misled is not None and misled.low > self.settings.harm_allowed:
                out[arm] = (
                    f"{arm} turns {misled.value:.0%} of the items wrong (95 % interval {misled.low:.0%} to "
                    f"{misled.high:.0%}, n = {misled.n}): the model follows a passage that lacks the answer."
                )
        return out

    @cached_property
    def barred(self) -> dict[str, str]:
        """Arms that exceed a hard limit on latency or price, and why."""
        limits = self.settings.constraints
        out: dict[str, str] = {}
        for arm in self.scored:
            if arms.family(arm) in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.WRONG_PASSAGE):
                # Nobody ships these, so what they take is no matter.
                continue
            p95, price = self.latency_p95_s(arm), self.usd_per_1k(arm)
            if limits.latency_ms is not None and p95 is not None and 1000 * p95 > limits.latency_ms:
                out[arm] = f"{arm} takes {1000 * p95:.0f} ms at p95, over the limit of {limits.latency_ms:g} ms."
            elif limits.usd_per_1k is not None and price is not None and price > limits.usd_per_1k:
                out[arm] = f"{arm} costs {price:.2f} USD per 1,000 queries, over the limit of {limits.usd_per_1k:g}."
        return out

    @cached_property
    def all_barred(self) -> bool:
        """No measured arm that could be shipped, the base included, keeps the hard limits."""
        shipped = [
            arm
            for arm in self.scored
            if arms.family(arm) not in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.WRONG_PASSAGE)
        ]
        return bool(shipped) and all(arm in self.barred for arm in shipped)

    @cached_property
    def measured(self) -> dict[str, Side]:
        """Closed and every remedy family that was measured, by its representative.

        Variants that are harmful or barred represent their family only where there is no other.
        """
        tie_breaks = self._tie_breaks()
        out = {arms.CLOSED: self.closed}
        for family in arms.REMEDIES:
            variants = [arm for arm in self.against_closed if arms.family(arm) == family]
            most = max((self.table.counts(arm).n for arm in variants), default=0)
            # A variant that was dropped early, or failed often, has too few items to stand for the others.
            variants = [arm for arm in variants if self.table.counts(arm).n >= SHARE_OF_ITEMS * most]
            good = [arm for arm in variants if arm not in self.harmful and arm not in self.barred] or variants
            if good:
                tie = self.settings.delta if family == arms.TUNE else 0.0
                out[family] = represent(self.table, good, tie_breaks, tie)
        return out

    @cached_property
    def allowed(self) -> dict[str, Side]:
        """The families that may enter the route."""
        return {
            family: item
            for family, item in self.measured.items()
            if family == arms.CLOSED or (item.ship not in self.harmful and item.ship not in self.barred)
        }

    @cached_property
    def counted(self) -> list[str]:
        """The remedies whose gains speak against `none`: those that may enter a route; where none may, all of them."""
        remedies = [family for family in self.measured if family != arms.CLOSED]
        return [family for family in remedies if family in self.allowed] or remedies

    @cached_property
    def unplaced(self) -> list[str]:
        """Families of `counted` whose gain makes no route: harmful, or what they have to beat was not measured."""
        alone = [arms.ORACLE_FEW_SHOT] if arms.FEW_SHOT not in self.measured else []
        if self.combined is not None and self.rival_of_both is None:
            alone.append(self.combined)
        return [family for family in self.counted if family not in self.allowed or family in alone]

    def left_out(self, family: str) -> str | None:
        """Why a measured family may not enter the route: "harmful" or "over a limit"; None where it may."""
        if family not in self.measured or family in self.allowed:
            return None
        return "harmful" if self.measured[family].ship in self.harmful else "over a limit"

    @cached_property
    def combined(self) -> str | None:
        """The family of both that may enter the route. Gold passages stand in only where our own were not measured:
        a combination that is harmful or over a limit with our own passages is not shipped on the word of gold ones."""
        family = both_family(self.measured)
        return family if family in self.allowed else None

    @cached_property
    def questions(self) -> list[Key]:
        """The four questions that Holm ranges over: does the prompt, do demonstrations, does knowledge, does tuning gain?"""
        knowledge = knowledge_family(self.measured)
        measure: Measure = "content" if self.table.content_given else "correct"
        keys: list[Key] = [(f, "correct") for f in (arms.PROMPT, arms.FEW_SHOT, arms.TUNE) if f in self.measured]
        return keys if knowledge is None else [*keys, (knowledge, measure)]

    @cached_property
    def gates(self) -> dict[Key, Comparison]:
        """Each measured remedy against the base; for K also on content where that is scored apart.

        p_holm ranges over the questions. The other arms (our retriever beside an oracle, arms
        that combine) follow from a question or must beat a rival besides, so each is adjusted
        as if it alone had joined: more arms do not make the questions harder to answer.
        """
        wanted = dict.fromkeys([*self.questions, *((f, "correct") for f in self.measured if f != arms.CLOSED)])
        found = {key: compare(self.table, self.measured[key[0]], self.closed, key[1]) for key in wanted}
        present = {key: c for key, c in found.items() if c is not None}
        family = [present[key] for key in self.questions if key in present]
        adjusted = dict(zip([key for key in self.questions if key in present], adjust(family), strict=True))
        return {key: adjusted[key] if key in adjusted else adjust_beside(family, c) for key, c in present.items()}

    @property
    def retriever_gains(self) -> bool:
        """Our own retriever gains over the base, by content or as it is."""
        return self.gains((arms.RETRIEVED, "content")) or self.gains((arms.RETRIEVED, "correct"))

    def gains(self, key: Key) -> bool:
        """The family gains over the base as it is, and may enter the route."""
        gate = self.gates.get(key)
        return gate is not None and key[0] in self.allowed and gate.shows(self.settings.delta, self.settings.alpha)

    @cached_property
    def few_shot_over_prompt(self) -> Comparison | None:
        if not (self.gains((arms.PROMPT, "correct")) and self.gains((arms.FEW_SHOT, "correct"))):
            return None
        return compare(self.table, self.measured[arms.FEW_SHOT], self.measured[arms.PROMPT])

    @cached_property
    def adopted(self) -> str:
        """The family that later remedies have to beat: closed, or what prompting has gained (rule 1)."""
        settings = self.settings
        if not self.gains((arms.PROMPT, "correct")):
            return arms.FEW_SHOT if self.gains((arms.FEW_SHOT, "correct")) else arms.CLOSED
        over = self.few_shot_over_prompt
        return arms.FEW_SHOT if over is not None and over.shows(settings.delta, settings.alpha) else arms.PROMPT

    @cached_property
    def rivals(self) -> dict[tuple[str, Key], Comparison]:
        """Candidates against what they have to beat beside the base, by (route, key); p_holm over them."""
        wanted: dict[tuple[str, Key], str] = {}
        for key in RAG_KEYS:
            if self.gains(key) and (rival := self.rival_of_retrieval(key[0])) != arms.CLOSED:
                wanted["rag", key] = rival
        best_prompting = best_of(self.allowed, prompting(self.allowed))
        if self.gains((arms.TUNE, "correct")) and best_prompting != arms.CLOSED:
            wanted["tune", (arms.TUNE, "correct")] = best_prompting
        both = self.combined
        if both is not None and self.gains((both, "correct")) and self.rival_of_both is not None:
            wanted["both", (both, "correct")] = self.rival_of_both
        found = {
            key: compare(self.table, self.measured[key[1][0]], self.measured[against], key[1][1])
            for key, against in wanted.items()
        }
        present = {key: c for key, c in found.items() if c is not None}
        return dict(zip(present, adjust(list(present.values())), strict=True))

    def rival_of_retrieval(self, family: str) -> str:
        """What a retrieval arm has to beat beside the base: adopted prompting; with demonstrations, those alone too."""
        if family == arms.ORACLE_FEW_SHOT and arms.FEW_SHOT in self.measured:
            return best_of(self.measured, [self.adopted, arms.FEW_SHOT])
        return self.adopted

    @property
    def tells_of_knowledge(self) -> tuple[Key, ...]:
        """What makes retrieval a candidate here. Passages with demonstrations tell nothing of passages while the
        demonstrations alone were not measured, unless passages alone gain too."""
        if arms.FEW_SHOT in self.measured:
            return RAG_KEYS
        return tuple(key for key in RAG_KEYS if key[0] != arms.ORACLE_FEW_SHOT)

    @cached_property
    def rival_of_both(self) -> str | None:
        """The best single remedy; None when no retrieval or tuning arm was measured alone: the sum cannot be shown then."""
        if len(singles(self.measured)) == len(prompting(self.measured)):
            return None
        return best_of(self.measured, singles(self.measured))

    @cached_property
    def rag_arm(self) -> str | None:
        """The family whose rate stands for rag: our own retriever, else the better oracle arm."""
        found = [f for f in (arms.RETRIEVED,) if f in self.measured] or [
            f for f in (arms.ORACLE, arms.ORACLE_FEW_SHOT) if f in self.allowed
        ]
        return best_of(self.measured, found) if found else None

    @property
    def rag_barred(self) -> bool:
        """What retrieval would ship exceeds a hard limit."""
        return self.rag_arm == arms.RETRIEVED and self.measured[arms.RETRIEVED].ship in self.barred

    @cached_property
    def knowledge_settled(self) -> bool:
        """Whether no gain from retrieval can be believed: shown with gold passages, or no retrieval was on the table."""
        oracle = arms.ORACLE in self.measured or arms.ORACLE_FEW_SHOT in self.measured
        tuned = arms.TUNE in self.measured or both_family(self.measured) is not None
        return oracle or (tuned and arms.RETRIEVED not in self.measured)

    @cached_property
    def cheaper(self) -> Literal["rag", "tune"] | None:
        """The cheaper of what rag and tune would ship, where both costs are known and differ."""
        if self.rag_arm is None or arms.TUNE not in self.measured:
            return None
        rag, tune = (self.usd_per_1k(self.measured[f].ship) for f in (self.rag_arm, arms.TUNE))
        if rag is None or tune is None or rag == tune:
            return None
        return "rag" if rag < tune else "tune"

    @cached_property
    def draws(self) -> Draws:
        return draw(self.table, self.measured, arms.CLOSED, seed=self.settings.seed)

    def latency_p95_s(self, arm: str) -> float | None:
        known = self._column(arm, "latency_s")
        return None if known is None else float(np.quantile(known, 0.95))

    def usd_per_1k(self, arm: str) -> float | None:
        """As declared for the arm or its family, else from its mean tokens and their price; None when neither is known."""
        declared = self.settings.costs.get(arm) or self.settings.costs.get(arms.family(arm)) or ArmCost()
        if declared.usd_per_1k is not None or self.settings.usd_per_mtok is None:
            return declared.usd_per_1k
        read, written = self._column(arm, "input_tokens"), self._column(arm, "output_tokens")
        if read is None or written is None:
            return None
        per_read, per_written = self.settings.usd_per_mtok
        return float(read.mean() * per_read + written.mean() * per_written) / 1000

    def _breaks_too_much(self, broken: Estimate, comparison: Comparison) -> bool:
        return broken.low > self.settings.harm_allowed and (comparison.gained or 0) < 2 * broken.value * broken.n

    def _column(self, arm: str, name: str) -> NDArray[np.float64] | None:
        if not self.table.paired:
            return None
        values: NDArray[np.float64] = getattr(self.table.arms[arm], name)
        known = values[~np.isnan(values)]
        return known if known.size else None

    def _tie_breaks(self) -> Mapping[str, float]:
        """Lower is cheaper: declared or token cost where all are known, else a head before an adapter, else tokens read."""
        prices = {arm: self.usd_per_1k(arm) for arm in self.scored}
        if all(price is not None for price in prices.values()):
            return {arm: price or 0.0 for arm, price in prices.items()}
        out = {}
        for arm in self.scored:
            read = self._column(arm, "input_tokens")
            tuned = arms.family(arm) == arms.TUNE
            out[arm] = (
                float(arms.tuning_method(arm) != "head") if tuned else 0.0 if read is None else float(read.mean())
            )
        return out

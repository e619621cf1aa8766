"""What the rule is fed: the findings the tests have shown, and those that each bootstrap draw would show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor import arm_names as arms
from advisor.case import Case, Key
from advisor.evidence import Measure, at_least, doubt, rate
from advisor.quantities import compare_rate, prompting, singles
from advisor.rule import Findings

NEAR_TARGET = 2
"""Deltas under the target that the lower limit of a base that meets it may lie: 20 of 20 passes, 8 of 8 does not."""
AHEAD = 0.10
"""One-sided p at which a remedy that has shown its gain is ahead of a rival that has shown none (docs/decisions/0017)."""

_KINDS = (
    (arms.PROMPT,),
    (arms.FEW_SHOT,),
    (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.RETRIEVED),
    (arms.TUNE,),
    (arms.TUNE_RETRIEVED, arms.TUNE_ORACLE),
)


def tested(case: Case) -> Findings:
    """Findings with one element: a remedy counts when its tests show a gain of delta, not before.

    Where no remedy has shown that it beats its rival as well, one that gains over the base is still taken when its rival
    has shown no gain itself and is behind by delta: both lie ahead of the base, and only one of them is known to.
    """
    delta, alpha, target = case.settings.delta, case.settings.alpha, case.settings.target

    def beats(route: str, key: Key) -> bool:
        rival = case.rivals.get((route, key))
        return case.gains(key) and (rival is None or rival.shows(delta, alpha))

    def ahead(route: str, key: Key) -> bool:
        rival = case.rivals.get((route, key))
        if rival is None or not case.gains(key) or case.gains((arms.family(rival.against), "correct")):
            return False
        return at_least(rival.gain.value, delta) and rival.p_gain <= AHEAD

    combined = case.combined
    base = rate(case.table, case.closed.ship)
    # Meeting the target on 8 of 8 is no evidence: the lower limit must come near it too.
    meets = at_least(base.value, target) and at_least(base.low, target - NEAR_TARGET * delta)
    counted = [gate for (family, _), gate in case.gates.items() if family in case.counted]
    ruled_out = bool(counted) and all(gate.gain.high < delta for gate in counted)
    lead = 0.0
    if case.rag_arm is not None and arms.TUNE in case.measured:
        lead = compare_rate(case.measured[case.rag_arm], case.measured[arms.TUNE]) or 0.0
    adopted = (arms.CLOSED, arms.PROMPT, arms.FEW_SHOT).index(case.adopted)
    rag = _retrieval_ships(case) and any(beats("rag", key) for key in case.tells_of_knowledge)
    tune = beats("tune", (arms.TUNE, "correct"))
    both = combined is not None and case.rival_of_both is not None and beats("both", (combined, "correct"))
    if not (adopted or rag or tune or both or meets or case.settings.must_retrieve):
        tune = ahead("tune", (arms.TUNE, "correct"))
        both = combined is not None and ahead("both", (combined, "correct"))
    return Findings(
        adopted=np.array([adopted]),
        rag=np.array([rag]),
        tune=np.array([tune]),
        both=np.array([both]),
        rag_lead=np.array([lead]),
        meets=np.array([meets and case.closed.ship not in case.barred]),
        nothing=np.array([ruled_out and case.knowledge_settled and not case.all_barred and base.value < target]),
    )


def drawn(case: Case) -> Findings:
    """Findings with one element a draw: what the rule would find were the drawn rates the true ones."""
    correct, content = case.draws.correct, case.draws.content
    closed = correct[arms.CLOSED]
    no = np.zeros(len(closed), dtype=bool)
    ladder = [arms.CLOSED, arms.PROMPT, arms.FEW_SHOT]
    adopted = np.zeros(len(closed), dtype=np.int64)
    for rank in (1, 2):
        if ladder[rank] in case.allowed:
            adopted = np.where(_gains_over(case, ladder[rank], ladder, adopted, "correct"), rank, adopted)
    rag = no
    for family, measure in case.tells_of_knowledge:
        if (family, measure) in case.gates and family in case.allowed and not case.rag_barred:
            found = _gains_over(case, family, ladder, adopted, measure)
            if family == arms.ORACLE_FEW_SHOT:
                found &= _gains_over(case, family, ladder, np.full_like(adopted, 2), measure)
            rag = rag | found
    if arms.RETRIEVED in case.measured:
        in_hand = _pick([content.get(family, closed) for family in ladder], adopted)
        rag = rag & ((adopted == 0) | (content[arms.RETRIEVED] >= in_hand))
    tune = no
    if arms.TUNE in case.allowed:
        prompted = prompting(case.allowed)
        tune = _gains_over(case, arms.TUNE, prompted, np.argmax([correct[f] for f in prompted], axis=0), "correct")
    combined, both = case.combined, no
    if combined is not None and case.rival_of_both is not None:
        rivals = singles(case.measured)
        both = _gains_over(case, combined, rivals, np.argmax([correct[f] for f in rivals], axis=0), "correct")
    lead = no.astype(float)
    if case.rag_arm is not None and arms.TUNE in case.measured:
        lead = correct[case.rag_arm] - correct[arms.TUNE]
    gaining = no
    for family, measure in case.gates:
        if family in case.unplaced:
            gaining = gaining | _gains_over(case, family, ladder, np.zeros_like(adopted), measure)
    at_target = closed >= case.settings.target
    meets = no if case.closed.ship in case.barred else at_target
    nothing = ~at_target & ~gaining & (case.knowledge_settled and not case.all_barred)
    return Findings(adopted, rag, tune, both, lead, meets, nothing)


def _gains_over(
    case: Case, family: str, rivals: Sequence[str], which: NDArray[np.int64], measure: Measure
) -> NDArray[np.bool_]:
    """In which draws `family` gains delta over the rival that `which` indexes there, and is not an idle arm.

    Arms of one family of remedies share the random number that decides on idleness:
    an oracle and a retriever are not two chances for knowledge to help.
    """
    rates = case.draws.content if measure == "content" else case.draws.correct
    present = [rival for rival in rivals if rival in case.measured]
    against = _pick([rates.get(rival, rates[arms.CLOSED]) for rival in rivals], which)
    doubts = {rival: doubt(case.table, case.measured[family], case.measured[rival], measure) for rival in present}
    idle = _pick([np.full(len(which), doubts.get(rival, 1.0)) for rival in rivals], which)
    kind = next(i for i, group in enumerate(_KINDS) if family in group)
    chance = np.random.default_rng((case.settings.seed, kind)).random(len(which))
    return np.asarray((rates[family] - against >= case.settings.delta - 1e-9) & (chance >= idle))


def _pick(arrays: Sequence[NDArray[Any]], which: NDArray[np.int64]) -> NDArray[Any]:
    return np.asarray(np.take_along_axis(np.stack(arrays), which[None], axis=0)[0])


def _retrieval_ships(case: Case) -> bool:
    """Retrieval may be the route: within the hard limits, and not behind the prompting that is in hand already.

    Against the base alone a weak retriever is no reason against retrieval (rule 2);
    against an adopted prompt it is, for the prompt can be shipped today (rule 5).
    """
    if case.rag_barred or case.adopted == arms.CLOSED or arms.RETRIEVED not in case.measured:
        return not case.rag_barred
    lead = compare_rate(case.measured[arms.RETRIEVED], case.measured[case.adopted], "content")
    return lead is not None and lead >= 0

"""What the rule is fed: the findings the tests have shown, and those that each bootstrap draw would show."""

from __future__ import annotations

import numpy as np

from advisor import arm_names as arms
from advisor.case import RAG_KEYS, Case, Key
from advisor.evidence import at_least, rate
from advisor.quantities import both_family, compare_rate, prompting, singles
from advisor.rule import Findings


def tested(case: Case) -> Findings:
    """Findings with one element: a remedy counts when its tests show a gain of delta, not before."""
    delta, alpha, target = case.settings.delta, case.settings.alpha, case.settings.target

    def beats(route: str, key: Key) -> bool:
        rival = case.rivals.get((route, key))
        return case.gains(key) and (rival is None or rival.shows(delta, alpha))

    both = both_family(case.allowed)
    base = rate(case.table, case.closed.ship)
    # Meeting the target on 5 of 5 is no evidence: the lower limit must come within delta of it too.
    meets = at_least(base.value, target) and at_least(base.low, target - delta)
    usable = [gate for (family, _), gate in case.gates.items() if family in case.allowed]
    ruled_out = bool(usable) and all(gate.gain.high < delta for gate in usable)
    lead = 0.0
    if case.rag_arm is not None and arms.TUNE in case.measured:
        lead = compare_rate(case.measured[case.rag_arm], case.measured[arms.TUNE]) or 0.0
    return Findings(
        adopted=np.array([(arms.CLOSED, arms.PROMPT, arms.FEW_SHOT).index(case.adopted)]),
        rag=np.array([_retrieval_ships(case) and any(beats("rag", key) for key in RAG_KEYS)]),
        tune=np.array([beats("tune", (arms.TUNE, "correct"))]),
        both=np.array([both is not None and case.rival_of_both is not None and beats("both", (both, "correct"))]),
        rag_lead=np.array([lead]),
        meets=np.array([meets and case.closed.ship not in case.barred]),
        nothing=np.array([ruled_out and case.knowledge_settled and base.value < target]),
    )


def drawn(case: Case) -> Findings:
    """Findings with one element a draw: what the rule would find were the drawn rates the true ones."""
    correct, content, delta = case.draws.correct, case.draws.content, case.settings.delta - 1e-9
    closed = correct[arms.CLOSED]
    no = np.zeros(len(closed), dtype=bool)
    base, base_content, adopted = closed, content[arms.CLOSED], np.zeros(len(closed), dtype=np.int64)
    for rank, family in ((1, arms.PROMPT), (2, arms.FEW_SHOT)):
        if family in case.allowed:
            gains = correct[family] - base >= delta
            base = np.where(gains, correct[family], base)
            base_content = np.where(gains, content[family], base_content)
            adopted = np.where(gains, rank, adopted)
    rag = no
    for key in RAG_KEYS:
        family, measure = key
        if key in case.gates and family in case.allowed and not case.rag_barred:
            rates, under = (content, base_content) if measure == "content" else (correct, base)
            rag = rag | (rates[family] - under >= delta)
    if arms.RETRIEVED in case.measured:
        rag = rag & ((adopted == 0) | (content[arms.RETRIEVED] >= base_content))
    prompted = np.max([correct[f] for f in prompting(case.allowed)], axis=0)
    tune = correct[arms.TUNE] - prompted >= delta if arms.TUNE in case.allowed else no
    combined, both = both_family(case.allowed), no
    if combined is not None and case.rival_of_both is not None:
        both = correct[combined] - np.max([correct[f] for f in singles(case.measured)], axis=0) >= delta
    lead = no.astype(float)
    if case.rag_arm is not None and arms.TUNE in case.measured:
        lead = correct[case.rag_arm] - correct[arms.TUNE]
    meets = closed >= case.settings.target
    return Findings(adopted, rag, tune, both, lead, meets, ~meets & case.knowledge_settled)


def _retrieval_ships(case: Case) -> bool:
    """Retrieval may be the route: within the hard limits, and not behind the prompting that is in hand already.

    Against the base alone a weak retriever is no reason against retrieval (rule 2);
    against an adopted prompt it is, for the prompt can be shipped today (rule 5).
    """
    if case.rag_barred or case.adopted == arms.CLOSED or arms.RETRIEVED not in case.measured:
        return not case.rag_barred
    lead = compare_rate(case.measured[arms.RETRIEVED], case.measured[case.adopted], "content")
    return lead is not None and lead >= 0

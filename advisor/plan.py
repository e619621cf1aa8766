"""Which arms this use case's data can support, and what the others would need.

An arm that cannot be run is absent and said to be absent; it is never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from advisor.arm_names import WITH_PASSAGES, context_of, family, shots_of
from core.errors import UnknownName

FEW_SHOT_K = (3, 8)
SIMILAR_ROWS = 50
"""Training rows from which on choosing demonstrations by likeness differs from taking some at random."""
MIN_TUNE_ROWS = 10
"""Below this a pilot shows nothing: decision.md asks for 50-200 rows, and fewer only as a hint."""

KNOWN = (
    "closed",
    "prompt",
    "prompt:context_first",
    "prompt:context_last",
    *(f"few_shot:{k}" for k in FEW_SHOT_K),
    *(f"few_shot:{k}_similar" for k in FEW_SHOT_K),
    "oracle",
    "oracle:context_first",
    "oracle:context_last",
    "oracle_few_shot",
    "retrieved",
    "retrieved:context_first",
    "retrieved:context_last",
    "tune:head",
    "tune:lora",
    "tune_retrieved",
    "tune_oracle",
    "wrong_passage",
)
"""Every arm `advise` can run, in the order in which it runs them."""

ON_REQUEST = (
    *(arm for arm in KNOWN if context_of(arm) is not None),
    *("few_shot:3_similar", "oracle_few_shot", "tune_retrieved", "tune_oracle", "wrong_passage"),
)
"""Arms that cost more than they usually tell; run when named by --arms."""


NOT_ASKED = "not asked for"
"""Why an arm is absent that only had to be named."""


class Absent(NamedTuple):
    """An arm that was not run."""

    arm: str
    why: str
    supply: str
    """What the user would have to give; "" where it is only a matter of asking for it."""


@dataclass(frozen=True)
class Means:
    """What the arms are built from."""

    documents: bool
    train_rows: int
    labels: bool
    """The outputs are labels of a closed set, one or several a row."""
    answer_format: bool
    """An answer-format line could be learnt, or the use case has none to learn from but an instruction."""
    local_base: bool
    """The base model's weights are on this machine, so it can be tuned."""
    gold_passages: bool
    """The eval rows name or hold their gold passages."""
    own_context: bool = False
    """Most inputs bring along a context beside their question (core.prompts.own_context)."""


class Plan(NamedTuple):
    arms: tuple[str, ...]
    absent: tuple[Absent, ...]


def plan_arms(means: Means, wanted: Sequence[str] = ()) -> Plan:
    """The arms to run, and every other with the reason.

    `wanted` (from --arms) names arms or families; a name that is both, as `retrieved`, is the arm. Empty is the
    default set. `closed` is always run: everything is compared against it.

    Raises:
        UnknownName: `wanted` names no known arm or family.
    """
    for name in wanted:
        if name not in KNOWN and name not in {family(arm) for arm in KNOWN}:
            raise UnknownName("arm", name, (*KNOWN, *(family(arm) for arm in KNOWN)))
    run: list[str] = []
    absent: list[Absent] = []
    for arm in KNOWN:
        reason = _missing(arm, means)
        by_family = family(arm) in wanted and family(arm) not in KNOWN
        asked = arm == "closed" or arm in wanted or by_family
        if reason is not None:
            absent.append(reason)
        elif asked or (not wanted and arm not in ON_REQUEST):
            run.append(arm)
        else:
            absent.append(Absent(arm, NOT_ASKED, f"--arms {arm}"))
    return Plan(tuple(run), tuple(absent))


def absent_lines(absent: Sequence[Absent], wanted: Sequence[str] = ()) -> list[str]:
    """What a terminal says of the arms that are not run: a line a reason, then those that only had to be named.

    Without a context to place there is none to tell of, unless its place was asked about.
    """
    unasked = [one.arm for one in absent if one.why == NOT_ASKED]
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in absent:
        if one.arm not in unasked and (context_of(one.arm) is None or one.arm in wanted):
            reasons.setdefault((one.why, one.supply), []).append(one.arm)
    lines = [
        f"not run: {', '.join(arms)} ({why}{f'; supply {supply}' if supply else ''})"
        for (why, supply), arms in reasons.items()
    ]
    return lines + ([f"not asked for: {', '.join(unasked)} (--arms A,B)"] if unasked else [])


def _missing(arm: str, means: Means) -> Absent | None:
    kind = family(arm)
    if kind in WITH_PASSAGES and not means.documents and not (kind.startswith("oracle") and means.gold_passages):
        passages = " or the gold passage in each eval row (`context`)" if kind.startswith("oracle") else ""
        return Absent(arm, "there are no documents", f"documents (--docs PATH){passages}")
    if kind == "prompt" and context_of(arm) is not None:
        if means.own_context:
            return None
        why = "the inputs bring no context along beside their question"
        return Absent(arm, why, "eval rows whose input holds it, set apart from the question by a blank line")
    if kind == "prompt" and not means.answer_format:
        return Absent(arm, "no answer format could be learnt", "training rows (--train FILE) to learn the format from")
    needs_training = kind in ("few_shot", "oracle_few_shot", "tune", "tune_retrieved", "tune_oracle")
    named = shots_of(arm)
    least = MIN_TUNE_ROWS if kind.startswith("tune") else FEW_SHOT_K[0] if named is None else named.k
    if named is not None and named.similar:
        least = SIMILAR_ROWS
    if needs_training and means.train_rows < least:
        have = (
            "there are no training rows"
            if means.train_rows == 0
            else f"there are only {means.train_rows} training rows"
        )
        return Absent(arm, f"{have}, it needs {least}", "training rows (--train FILE)")
    if arm == "tune:head" and not means.labels:
        return Absent(
            arm, "the training outputs are not labels of a closed set", "training rows with labels as outputs"
        )
    if kind.startswith("tune") and arm != "tune:head" and not means.local_base:
        return Absent(
            arm, "the base model is remote, its weights are not here to tune", "a local base model (--base-model)"
        )
    return None

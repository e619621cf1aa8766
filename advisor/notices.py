"""Warnings of the verdict that come from the data and the calls, not from the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advisor.checks import EXAMPLES, Finding
from advisor.reasons import Notice
from core.rows import Row

VERDICT_FINDINGS = frozenset(
    [
        *("conflicting_gold", "fact_teaching", "not_in_corpus", "unparseable", "no_gold", "gold_too_long"),
        *("input_too_long", "few_rows", "eval_duplicates"),
    ]
)
"""Findings that bear on the verdict, so that it names them; leaks are named with what they do (contamination)."""


def data_notices(findings: Sequence[Finding]) -> list[Notice]:
    """Warnings of the verdict for what was found in the data, leaks aside."""
    return [Notice(f.code, f"{f.text[:1].upper()}{f.text[1:]}.") for f in findings if f.code in VERDICT_FINDINGS]


def error_notices(rows: Sequence[Mapping[str, Any]]) -> list[Notice]:
    """Why calls failed, the most frequent reason of each arm; how many did is said elsewhere."""
    reasons: dict[str, Counter[str]] = {}
    for row in rows:
        if row["outcome"] == "error":
            reasons.setdefault(row["arm"], Counter())[str(row["error"])] += 1
    by_reason: dict[str, list[str]] = {}
    for arm, counts in reasons.items():
        by_reason.setdefault(counts.most_common(1)[0][0], []).append(arm)
    return [
        Notice("error_reason", f"Most failed calls of {', '.join(arms)}: {reason}.")
        for reason, arms in by_reason.items()
    ]


def length_findings(
    rows: Sequence[Row], max_tokens: int, window: int | None, count_tokens: Callable[[str], int]
) -> list[Finding]:
    """Rows that no arm can get right, whatever it knows: the gold is longer than an answer may be, or the input too long."""
    golds = [row.id for row in rows if row.answers and min(map(count_tokens, row.answers)) > max_tokens]
    found = []
    if golds:
        text = (
            f"{len(golds)} of {len(rows)} gold answers are longer than an answer may be ({max_tokens} tokens): no "
            "generated answer holds them whole; raise max_tokens, shorten the gold answers or take the rows out"
        )
        found.append(Finding("gold_too_long", text, len(golds), tuple(golds[:EXAMPLES]), tuple(golds)))
    inputs = [
        row.id for row in rows if window is not None and sum(count_tokens(m.content) for m in row.messages) >= window
    ]
    if inputs:
        text = (
            f"{len(inputs)} of {len(rows)} inputs do not fit the model's context of {window} tokens: their calls fail and "
            "are left out; shorten them or choose a model with a longer context"
        )
        found.append(Finding("input_too_long", text, len(inputs), tuple(inputs[:EXAMPLES]), tuple(inputs)))
    return found

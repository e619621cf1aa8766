"""Why each failed item fails: one row an item, with every arm's answer beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from advisor.arm_names import family
from core.rows import Row

Cells = Mapping[str, Mapping[str, Any]]
"""arm -> outcome row of one item: outcome, content, form, answer."""

CAUSES = {
    "suspect_gold": "the data checks doubt its gold answer: look at it before anything else",
    "not_in_corpus": "the gold answer stands in no document: add documents",
    "retrieval_miss": "the gold passage fixes it, our retriever does not put it in the prompt",
    "retrieval_fixes": "a retrieved passage fixes it",
    "context_ignored": "wrong although the gold passage is in the prompt",
    "form_only": "the right answer in the wrong shape",
    "prompt_fixes": "an answer-format line fixes it",
    "few_shot_fixes": "demonstrations fix it",
    "tuning_fixes": "tuning fixes it",
    "both_needed": "only passage and tuning together fix it",
    "unfixable": "no arm gets it right",
    "call_failed": "the base model's call failed, or the judge gave no verdict: nothing is known of it",
}


def ledger(
    rows: Sequence[Row],
    by_item: Mapping[str, Cells],
    covered: Mapping[str, bool] | None,
    suspect: Set[str] = frozenset(),
    shown: Mapping[str, bool] | None = None,
) -> list[dict[str, Any]]:
    """A row for every item that the base model does not get right.

    Args:
        by_item: item id -> arm -> outcome row.
        covered: item id -> whether some document holds its gold answer; None without documents.
        suspect: items whose gold answers conflict with those of another row.
        shown: item id -> whether our retriever puts a gold document in the prompt; None where none are marked.
    """
    failed = []
    for row in rows:
        cells = by_item.get(row.id, {})
        if "closed" not in cells:
            # A run that stopped early did not ask it.
            continue
        # A graded answer that no threshold calls wrong is no failure.
        if cells["closed"]["outcome"] in ("correct", None):
            continue
        failed.append(
            {
                "item": row.id,
                "cause": "suspect_gold"
                if row.id in suspect
                else _cause(cells, (covered or {}).get(row.id), (shown or {}).get(row.id)),
                "input": row.input,
                "gold": list(row.answers),
                "answers": {arm: {"outcome": c["outcome"], "text": c["answer"]} for arm, c in cells.items()},
            }
        )
    return failed


def _cause(cells: Cells, covered: bool | None, shown: bool | None) -> str:
    def right(kind: str) -> bool:
        return any(family(arm) == kind and cell["outcome"] == "correct" for arm, cell in cells.items())

    if cells["closed"]["outcome"] == "error":
        return "call_failed"
    if cells["closed"].get("content") == 1 and cells["closed"].get("form") == 0:
        return "form_only"
    for kind, cause in (("prompt", "prompt_fixes"), ("few_shot", "few_shot_fixes"), ("retrieved", "retrieval_fixes")):
        if right(kind):
            return cause
    if right("tune"):
        return "tuning_fixes"
    if right("oracle") or right("oracle_few_shot"):
        # A gold document that our retriever does show is not missed: the model did not read it there.
        return "context_ignored" if shown else "retrieval_miss"
    if right("tune_retrieved") or right("tune_oracle"):
        return "both_needed"
    if covered is False:
        return "not_in_corpus"
    return (
        "context_ignored" if any(family(arm) in ("oracle", "retrieved") for arm in cells) and covered else "unfixable"
    )

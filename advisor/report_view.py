"""What both written reports show of a report document: words for codes, numbers as text, rows chosen and cut.

Any part of the document may be missing (a table of totals, an older report); what is missing here is empty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from advisor.arm_names import family
from advisor.charts import Kind
from advisor.checks import LEAKS
from advisor.figures import chance

Document = Mapping[str, Any]

DASH = "–"
ANSWER_CHARS = 400
"""Characters of an answer that are shown; the rest is in outcomes.jsonl."""
INPUT_CHARS = 1200

ROUTES = {
    "base": "Keep the base model as it is",
    "prompt": "Use a better prompt",
    "few-shot": "Put worked examples in the prompt",
    "rag": "Use retrieval (RAG)",
    "tune": "Tune the model",
    "rag+tune": "Use retrieval and tuning together",
    "none": "None of the measured remedies helps",
    "undecided": "Undecided: the evidence does not settle it",
}
METHODS = {"lora": "with a LoRA adapter", "head": "with a classification head"}

ARMS = {
    "closed": "the base model alone",
    "prompt": "an answer-format line in the prompt",
    "few_shot": "worked examples in the prompt",
    "oracle": "the gold passage in the prompt",
    "oracle_few_shot": "the gold passage and worked examples",
    "retrieved": "passages our retriever finds",
    "tune": "the pilot tune",
    "tune_retrieved": "the pilot tune with retrieved passages",
    "tune_oracle": "the pilot tune with the gold passage",
    "wrong_passage": "a passage that lacks the answer",
}

_ROUTE_FAMILIES = {
    "prompt": ("prompt",),
    "few-shot": ("few_shot",),
    "rag": ("retrieved", "oracle", "oracle_few_shot"),
    "tune": ("tune",),
    "rag+tune": ("tune_retrieved", "tune_oracle"),
}


class Quantity(NamedTuple):
    letter: str
    name: str
    meaning: str
    kind: Kind
    gain: bool
    """A gain, to be held against delta; else a share of items."""

    @property
    def difference(self) -> bool:
        """Written in points with a sign: a difference of two rates, whose interval may reach below 0."""
        return self.gain or self.letter == "F"


QUANTITIES = (
    Quantity(
        "K", "Knowledge headroom", "right content gained once the right passage is in the prompt", "knowledge", True
    ),
    Quantity("L", "Tuning gain", "right answers gained by the pilot tune over the best prompt", "behaviour", True),
    Quantity("D", "Demonstration gain", "right answers gained by worked examples in the prompt", "behaviour", True),
    Quantity(
        "B", "Gain of both", "right answers gained by retrieval and tuning together over the better one", "plain", True
    ),
    Quantity("F", "Form gap", "base answers with the right content in the wrong shape", "behaviour", False),
    Quantity("X", "Left over", "content still wrong with gold passage and examples", "plain", False),
    Quantity("H", "Harm", "items that the remedy breaks and the base had right", "plain", False),
)


def quantities(verdict: Document, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Quantity, Document]]:
    """The quantities that the verdict knows, each with its estimate; K says so where our retriever stands in for gold passages."""
    found = verdict.get("quantities") or {}
    known = [(q, found.get(q.letter) or {}) for q in QUANTITIES]
    stand_in = "right content gained with what our retriever finds; there was no arm with gold passages"
    return [
        (q._replace(meaning=stand_in) if q.letter == "K" and not has_gold(rows) else q, estimate)
        for q, estimate in known
        if number(estimate.get("value")) is not None
    ]


def has_gold(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an arm had the gold passage in its prompt, and no more than that."""
    return any(family(row["name"]) == "oracle" for row in rows)


def title(verdict: Document) -> str:
    """The route in words."""
    route = str(verdict.get("route") or "No verdict in this report")
    words = ROUTES.get(route, route)
    method = METHODS.get(str(verdict.get("method")))
    return f"{words}, tuning {method}" if method and route == "rag+tune" else f"{words} {method}" if method else words


def arm_words(name: str) -> str:
    """`worked examples in the prompt (8)` for `few_shot:8`; an unknown arm's own name."""
    words = ARMS.get(family(name), name)
    variant = name.partition(":")[2]
    return f"{words} ({variant.replace(':', ', ').replace('_', ' ')})" if variant and words != name else words


def arm_rows(document: Document) -> list[dict[str, Any]]:
    """One row an arm: the document's own, else what the verdict says of each."""
    if document.get("arms"):
        return [dict(row) for row in document["arms"]]
    verdict = document.get("verdict") or {}
    rows = {name: {"name": name, **arm} for name, arm in (verdict.get("arms") or {}).items()}
    for found in verdict.get("comparisons") or []:
        if (
            family(found["against"]) == "closed"
            and found.get("measure", "correct") == "correct"
            and found["arm"] in rows
        ):
            gain = found.get("gain") or {}
            rows[found["arm"]] |= {key: found.get(key) for key in ("gained", "lost", "p", "p_holm")}
            rows[found["arm"]] |= {
                "gain": gain.get("value"),
                "gain_low": gain.get("low"),
                "gain_high": gain.get("high"),
            }
    return list(rows.values())


def base_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in rows if family(row["name"]) == "closed"), None)


def route_row(rows: Sequence[dict[str, Any]], verdict: Document) -> dict[str, Any] | None:
    """The arm that stands for the route; where it builds nothing, the best arm over the base. None without one."""
    scored = [row for row in rows if number(row.get("rate")) is not None]
    wanted = _ROUTE_FAMILIES.get(str(verdict.get("route")))
    if wanted is None:
        floor = number((base_row(rows) or {}).get("rate")) or 0.0
        others = [row for row in scored if family(row["name"]) != "wrong_passage" and row["rate"] > floor]
        return max(others, key=lambda row: row["rate"], default=None)
    method = verdict.get("method")
    for kind in wanted:
        found = [row for row in scored if family(row["name"]) == kind]
        built = [row for row in found if ("head" in row["name"].split(":")) == (method == "head")]
        if found:
            return max(built or found, key=lambda row: row["rate"])
    return None


def alarms(document: Document) -> list[Document]:
    """Grave findings of the data checks that no warning of the verdict has named already."""
    warned = {warning.get("code") for warning in (document.get("verdict") or {}).get("warnings") or []}
    if "leakage" in warned:
        warned |= LEAKS
    checks = document.get("checks") or []
    return [check for check in checks if check.get("severity") == "warning" and check.get("code") not in warned]


class Items(NamedTuple):
    """The failed items that are shown."""

    rows: list[Document]
    total: int
    counts: dict[str, int]
    """Cause -> failed items, the commonest first."""


def failed_items(document: Document, most_rows: int, most_bytes: int) -> Items:
    """Rows of the ledger in their order; where not all fit, every cause is there, with about its share.

    `most_bytes` bounds what their texts take as escaped UTF-8.
    """
    found = document.get("ledger") or {}
    rows: list[Document] = found.get("rows") or []
    counts = found.get("counts") or Counter(str(row.get("cause")) for row in rows)
    counts = {cause: n for cause, n in sorted(counts.items(), key=lambda pair: -pair[1]) if n}
    seen: Counter[str] = Counter()
    ranked = []
    for place, row in enumerate(rows):
        cause = str(row.get("cause"))
        ranked.append((seen[cause] / max(1, counts.get(cause, 1)), place))
        seen[cause] += 1
    kept, spent = [], 0
    for _, place in sorted(ranked)[:most_rows]:
        spent += _bytes(rows[place])
        if spent > most_bytes:
            break
        kept.append(place)
    return Items([rows[place] for place in sorted(kept)], max(len(rows), sum(counts.values())), counts)


def _bytes(row: Document) -> int:
    answers = (row.get("answers") or {}).values()
    texts = [cut(row.get("input"), INPUT_CHARS), *(cut(gold, ANSWER_CHARS) for gold in row.get("gold") or [])]
    texts += [cut(answer.get("text"), ANSWER_CHARS) for answer in answers]
    escaped = sum(len(text.encode("utf-8", "replace")) + 5 * sum(map(text.count, "<>&\"'")) for text in texts)
    # Markup around a row and around each answer, as measured.
    return escaped + 500 + 170 * len(answers)


def number(value: object) -> float | None:
    """`value` where it is a finite number, else None (missing, null, NaN)."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None  # type: ignore[arg-type]


def shown(write: Callable[[float], str]) -> Callable[[object], str]:
    """`write` for a finite number, a dash for anything else."""

    def filtered(value: object) -> str:
        found = number(value)
        return DASH if found is None else write(found)

    return filtered


def cut(text: object, most: int) -> str:
    """The first `most` characters, with a note of how many follow."""
    whole = text if isinstance(text, str) else ""
    return whole if len(whole) <= most else f"{whole[:most]} … ({len(whole) - most:,} more characters)"


def interval(low: object, high: object, write: Callable[[object], str]) -> str:
    """`33.3 to 57.1`; empty where an end is missing."""
    return "" if number(low) is None or number(high) is None else f"{write(low)} to {write(high)}"


def _signed(value: float) -> str:
    text = f"{abs(value):.1f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    hours, rest = divmod(round(value), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _usd(value: float) -> str:
    if value == 0:
        return "$0"
    if value < 1e-4:
        return "<$0.0001"
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.3f}" if value >= 0.01 else f"${value:.2g}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _signed_usd(value: float) -> str:
    return f"−{_usd(-value)}" if value < 0 else _usd(value)


FILTERS: dict[str, Callable[..., str]] = {
    "percent": shown(lambda v: f"{100 * v:.1f}%".replace(".0%", "%").replace("-", "−")),
    "points": shown(lambda v: _signed(100 * v)),
    "integer": shown(lambda v: f"{v:,.0f}"),
    "plain_points": shown(lambda v: f"{100 * v:g}"),
    "tokens": shown(lambda v: f"{v:,.1f}" if v < 100 else f"{v:,.0f}"),
    "seconds": shown(_seconds),
    "usd": shown(_usd),
    "signed_usd": shown(_signed_usd),
    "score": shown(lambda v: f"{v:.3f}"),
    "alpha": shown(lambda v: f"{v:.2g}"),
    "gb": shown(lambda v: f"{v:,.1f}" if v < 100 else f"{v:,.0f}"),
    "p": shown(_p),
    "confidence": shown(chance),
    "cut": cut,
    "arm_words": arm_words,
}
"""Template filters; a missing value becomes a dash."""

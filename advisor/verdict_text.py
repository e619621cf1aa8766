"""A verdict on the terminal: the answer first, then arms, comparisons, quantities, needs and warnings."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from advisor.evidence import Comparison
from advisor.figures import chance
from advisor.verdict import Verdict

_HEADLINES = {
    "base": "BASE: the base model is good enough as it is",
    "prompt": "PROMPT: a better prompt is the remedy",
    "few-shot": "FEW-SHOT: demonstrations in the prompt are the remedy",
    "rag": "RAG: retrieval is the remedy",
    "tune": "TUNE: tuning is the remedy",
    "rag+tune": "RAG+TUNE: retrieval and tuning together are the remedy",
    "none": "NONE: no usable remedy that was measured helps",
    "undecided": "UNDECIDED: the evidence does not settle it",
}
_COLOURS = {"undecided": "yellow", "none": "red"}
_MEANINGS = {
    "K": "knowledge headroom",
    "R": "realised by our retriever",
    "F": "form gap",
    "D": "gain of demonstrations",
    "L": "gain of tuning beyond prompting",
    "B": "gain of both over the better one",
    "X": "left over whatever one does",
    "H": "items broken",
}

REASONS = 6
"""Sentences on the first screen; the rest stands in the tables below them."""
NO_LEADER = 0.01
"""Share of the draws under which no route leads: the arms cannot tell."""


def print_verdict(verdict: Verdict) -> None:
    Console().print(render(verdict))


def render(verdict: Verdict) -> RenderableType:
    colour = _COLOURS.get(verdict.route, "green")
    head = Text(_HEADLINES[verdict.route], style=f"bold {colour}")
    if verdict.method is not None:
        head.append(f" (method: {verdict.method})")
    facts = [f"confidence {chance(verdict.confidence)}"]
    if verdict.route == "undecided":
        leads = verdict.confidence >= NO_LEADER
        facts = [f"{facts[0]} in the leading route" if leads else "no route leads"]
    if verdict.ready is not None:
        facts.append("retrieval ready" if verdict.ready else "retrieval NOT ready")
    facts.append(f"delta {100 * verdict.delta:g} points")
    parts: list[RenderableType] = [
        Panel(Text.assemble(head, "\n", ", ".join(facts)), border_style=colour),
        *(Text(f"- {reason}") for reason in verdict.reasons[:REASONS]),
        _arms(verdict),
    ]
    if verdict.comparisons:
        parts.append(_comparisons(verdict.comparisons))
    if any(verdict.quantities.values()):
        parts.append(_quantities(verdict))
    for need in verdict.needs:
        count = "" if need.n is None else f" ({need.n})"
        parts.append(Text.assemble(("needs ", "bold"), f"{need.what}{count}: {need.why}"))
    parts += [Text.assemble((f"{w.code} ", "bold yellow"), w.text) for w in verdict.warnings]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _arms(verdict: Verdict) -> Table:
    table = _table("\nArms", "arm", "n", "correct", "wrong", "refused", "error", "rate", "95 % interval")
    for name, arm in verdict.arms.items():
        rate = "-" if arm.rate is None else f"{arm.rate:.1%}"
        interval = "-" if arm.low is None or arm.high is None else f"{arm.low:.1%} to {arm.high:.1%}"
        counts = ("-" if count is None else str(count) for count in (arm.correct, arm.wrong, arm.refused, arm.error))
        table.add_row(Text(name), str(arm.n), *counts, rate, interval)
    return table


def _comparisons(comparisons: list[Comparison]) -> Table:
    table = _table("\nComparisons", "arm", "against", "gain", "95 % interval", "gained", "lost", "p", "Holm", "n")
    for c in comparisons:
        name = c.arm if c.measure == "correct" else f"{c.arm} (content)"
        counts = ("-" if count is None else str(count) for count in (c.gained, c.lost))
        interval = f"{100 * c.gain.low:+.1f} to {100 * c.gain.high:+.1f}"
        gain = f"{100 * c.gain.value:+.1f}"
        table.add_row(
            Text(name), Text(c.against), gain, interval, *counts, f"{c.p:.2g}", f"{c.p_holm:.2g}", str(c.gain.n)
        )
    return table


def _quantities(verdict: Verdict) -> Table:
    table = _table("\nQuantities", "", "value", "95 % interval", "n", "meaning")
    table.columns[-1].justify = "left"
    for letter, found in verdict.quantities.items():
        if found is not None:
            # z: no minus before a nought.
            interval = f"{found.low:z.2f} to {found.high:z.2f}"
            table.add_row(letter, f"{found.value:z.2f}", interval, str(found.n), _MEANINGS[letter])
    return table

"""The closing table of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from advisor.demo import Shown
from core.stats import Estimate


def print_table(shown: Sequence[Shown], elapsed_s: float) -> bool:
    """Print what was shown; returns whether every verdict is the one its example was chosen to show."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(title="Held-out questions, asked at the endpoint", title_justify="left", box=None, pad_edge=False)
    for column in ("use case", "verdict", "n", "base", "remedy", "gained", "lost", "gain (95 %)", "p", "USD/1k"):
        table.add_column(column, justify="left" if column in ("use case", "verdict") else "right")
    for row in shown:
        method = f" ({row.verdict['method']})" if row.verdict["method"] else ""
        table.add_row(
            row.example.name,
            f"{row.verdict['route']}{method}",
            str(row.n),
            _rate(row.base),
            _rate(row.remedy),
            str(row.gained),
            str(row.lost),
            f"{100 * row.gain.value:+.0f} [{100 * row.gain.low:+.0f}, {100 * row.gain.high:+.0f}]",
            f"{row.p:.2g}",
            "-" if row.usd_per_1k is None else f"{row.usd_per_1k:.3f}",
        )
    console.print()
    console.print(table)
    as_expected = True
    for row in shown:
        if row.verdict["route"] not in row.example.expected:
            as_expected = False
            wanted = " or ".join(row.example.expected)
            console.print(
                f"NOT as expected: {row.example.name} came out {row.verdict['route']}, chosen to show {wanted}"
            )
        if row.verdict["route"] == "none":
            console.print(f"{row.example.name}: no remedy helps, so nothing was built; the base model answers")
    steps = ", ".join(f"{r.example.name} advise {r.advise_s:.0f} s, build {r.build_s:.0f} s" for r in shown)
    console.print(f"took {elapsed_s / 60:.1f} minutes ({steps})")
    console.print("look at a report: tunefork report xquad    serve them: tunefork serve")
    return as_expected


def _rate(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"

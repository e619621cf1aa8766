"""`tunefork demo`: the whole loop on the shipped examples."""

from __future__ import annotations

import time

import click

from core.errors import UnknownName
from core.progress import say
from core.workspace import open_workspace

MINUTES = 10
"""Measured on 2 cores with AVX-512 and no accelerator, starter models installed (benchmarks/demo.py)."""


@click.command(name="demo")
@click.option("--only", multiple=True, metavar="NAME", help="Only this example (xquad, banking77, gsm8k); repeatable.")
def command(only: tuple[str, ...]) -> None:
    """Advise, build, serve and ask three examples of real public data.

    The numbers come from running, the verdict from the rule. Exits 1 when a verdict is
    not the one that the example was chosen to show.
    """
    from advisor.demo import EXAMPLES, run_demo
    from advisor.demo_table import print_table

    known = [example.name for example in EXAMPLES]
    for name in only:
        if name not in known:
            raise UnknownName("example", name, known)
    workspace = open_workspace()
    say(f"Three use cases of real public data, about {MINUTES} minutes on 2 cores; workspace: {workspace.path}")
    say("Stop it with Ctrl-C; the same command goes on where it stopped.")
    start = time.monotonic()
    shown = run_demo(workspace, only or known)
    if not print_table(shown, time.monotonic() - start):
        raise click.exceptions.Exit(1)

"""`tunefork advise`: measure, decide, report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from core.errors import ConfigError, UnknownName
from core.models import check_name
from core.settings import Constraints
from core.workspace import Workspace, open_workspace


@click.command(name="advise")
@click.argument("name", metavar="NAME|use_case.toml")
@click.option("--eval", "eval_", type=click.Path(path_type=Path), help="Rows to measure on.")
@click.option("--from-log", is_flag=True, help="Measure on what feedback on served answers says is right; remembered.")
@click.option("--docs", multiple=True, type=click.Path(path_type=Path), help="File or folder of documents; repeatable.")
@click.option("--train", type=click.Path(path_type=Path), help="Rows to learn from.")
@click.option("--base-model", metavar="M", help="A starter, a hub id, a folder, or MODEL@URL (OpenAI-compatible).")
@click.option("--embedding-model", metavar="M", help="Sentence encoder for retrieval and heads.")
@click.option("--instruction", metavar="TEXT", help="System prompt of the use case, the same in every arm.")
@click.option("--scorer", metavar="S", help="How answers are scored; inferred when absent (docs/scorers.md).")
@click.option("--max-tokens", type=int, help="Longest answer.")
@click.option("--delta", type=float, help="Smallest gain worth money, as a share (default 0.05).")
@click.option("--target", type=float, help="Rate that is good enough (default 0.90).")
@click.option("--top-k", type=int, help="Passages put in front of the model (default 4).")
@click.option("--seed", type=int, help="Seed of every draw (default 0).")
@click.option("--constraint", "constraints", multiple=True, metavar="C[=V]", help="Hard constraint; repeatable.")
@click.option("--arms", metavar="A,B", help="Only these arms or families (closed is always run).")
@click.option("--engine", default="auto", metavar="E", help="transformers, vllm or a URL (default: auto).")
@click.option("--input-usd-per-1m", type=float, default=0.0, help="Price of a remote model's input tokens.")
@click.option("--output-usd-per-1m", type=float, default=0.0, help="Price of a remote model's output tokens.")
@click.option("--machine-usd-per-hour", type=float, default=0.10, show_default=True, help="Price of this machine.")
@click.option("--full", is_flag=True, help="Ask every arm every item; the default stops once the verdict stands.")
@click.option("--budget", "budget_usd", type=float, metavar="USD", help="Most US dollars this run may spend.")
@click.option("--budget-calls", type=int, metavar="N", help="Most calls of base model and judge it may make.")
@click.option("--learning-curve", "lora_curve", is_flag=True, help="Draw the learning curve of a LoRA pilot too.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be run, and its calls, tokens, time and money; run nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON document.")
def command(
    name: str,
    eval_: Path | None,
    from_log: bool,
    arms: str | None,
    engine: str,
    constraints: tuple[str, ...],
    input_usd_per_1m: float,
    output_usd_per_1m: float,
    machine_usd_per_hour: float,
    full: bool,
    budget_usd: float | None,
    budget_calls: int | None,
    lora_curve: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure which remedy the use case NAME needs: retrieval, tuning, both, or neither.

    NAME is created by the first command that uses it, from flags or a TOML file; later
    commands need only the name. A stopped run goes on where it was. A dry run changes no
    use case that exists.
    """
    declared: Constraints | None = None
    if constraints:
        from advisor.commands.decide import parse_constraints

        declared = parse_constraints(constraints)
    workspace = open_workspace()
    if from_log:
        eval_ = _from_log(workspace, name, eval_)
    flags |= {"eval": eval_, "constraints": declared}
    if (
        eval_ is None
        and not name.endswith(".toml")
        and name not in workspace.names()
        and not os.environ.get("TUNEFORK_EVAL")
    ):
        # A mistyped name must not become a use case.
        raise UnknownName(
            "use case", name, workspace.names(), hint="(there is no eval set to make it from: --eval FILE)"
        )
    if flags["base_model"] is not None and engine != "vllm" and "://" not in engine:
        # An endpoint has model names of its own.
        check_name(flags["base_model"])
    folder, settings = workspace.proposed(name, flags)
    wanted = [arm.strip() for arm in (arms or "").split(",") if arm.strip()]

    from advisor.cost import Prices

    prices = Prices(input_usd_per_1m, output_usd_per_1m, machine_usd_per_hour)
    if dry_run:
        from advisor.dry_run import dry_run as estimate_run
        from advisor.dry_run import print_estimate

        estimate = estimate_run(settings, wanted, prices, budget_usd, budget_calls, lora_curve, engine)
        folder.remember_first(settings)
        if as_json:
            click.echo(json.dumps(estimate, indent=2, ensure_ascii=False))
        else:
            print_estimate(estimate, wanted)
        return

    from advisor.advise import advise
    from advisor.plan import absent_lines
    from advisor.verdict_text import REASONS, print_verdict

    advice = advise(
        folder,
        settings,
        workspace,
        wanted=wanted,
        engine=engine,
        prices=prices,
        full=full,
        budget_usd=budget_usd,
        budget_calls=budget_calls,
        lora_curve=lora_curve,
    )
    if as_json:
        click.echo(json.dumps({**advice.verdict.to_json(), "run": advice.run.name}, ensure_ascii=False, indent=2))
        return
    print_verdict(advice.verdict)
    if advice.extras["sequential"]["why"] not in advice.verdict.reasons[:REASONS]:
        click.echo(advice.extras["sequential"]["why"])
    if advice.extras["budget"] is not None:
        click.echo(advice.extras["budget"]["text"])
    if advice.extras["retries"] is not None:
        click.echo(advice.extras["retries"]["text"])
    for curve in advice.extras["learning_curve"] or ():
        click.echo(curve["text"])
    for line in absent_lines(advice.plan.absent, wanted):
        click.echo(line)
    click.echo(f"report: {advice.run / 'report.html'}")
    click.echo(f"next:   tunefork build {settings.name}")


def _from_log(workspace: Workspace, name: str, eval_: Path | None) -> Path:
    """The eval set that the use case's feedback makes."""
    from core.request_log import write_eval_set

    if eval_ is not None:
        raise ConfigError("--from-log makes the eval set; leave --eval out")
    return write_eval_set(workspace.use_case(name))

"""The whole of `tunefork advise`: read, check, ask every arm, decide, write it down.

Every answer is cached as it comes and every pilot is kept, so a stopped or killed
run is resumed by the same command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from advisor.answers import AnswerCache
from advisor.arm_names import WITH_PASSAGES, family, tuning_method
from advisor.arms import ArmRun, Bench
from advisor.budget import Budget, budget_of, same_model
from advisor.checks import Finding, corpus_findings
from advisor.contamination import Contamination, contamination
from advisor.cost import ArmCosts, Prices, arm_costs
from advisor.extras import extras, out_of_budget, sentence
from advisor.judging import Judging, open_judging
from advisor.learning_curve import Curve, learning_curve, score_of
from advisor.looks import Progress
from advisor.materials import Materials, answer_budget, gather
from advisor.notices import data_notices, error_notices, length_findings
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.plan import Plan, plan_arms
from advisor.purse import Purse
from advisor.report import write_report
from advisor.rule import ArmCost, DecisionSettings
from advisor.running import Running, run_steps, running
from advisor.scorers.base import Scorer
from advisor.scoring import cells
from advisor.verdict import Verdict, decide
from core.engines.base import Engine
from core.engines.open import open_engine
from core.errors import ConfigError
from core.files import write_json, write_text
from core.jobs import job
from core.models import starter
from core.progress import say
from core.settings import Judge, UseCase
from core.workspace import UseCaseFolder, Workspace


@dataclass(frozen=True)
class Advice:
    """What one run found."""

    run: Path
    verdict: Verdict
    materials: Materials
    plan: Plan
    arms: tuple[ArmRun, ...]
    costs: Mapping[str, ArmCosts]
    outcomes: tuple[dict[str, Any], ...]
    """Rows of outcomes.jsonl."""
    bench: Bench
    prices: Prices
    covered: Mapping[str, bool] | None
    """item -> whether some document holds its gold answer; None without documents."""
    elapsed_s: float
    judging: Judging | None
    contamination: Contamination | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    """More keys of report.json: how the run went in steps, its budget, the learning curve, what was broken (advisor/extras.py)."""


def advise(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    *,
    wanted: Sequence[str] = (),
    engine: str = "auto",
    prices: Prices | None = None,
    full: bool = False,
    budget_usd: float | None = None,
    budget_calls: int | None = None,
    lora_curve: bool = False,
) -> Advice:
    """Measure every arm that the use case's data supports, and put the verdict in force.

    `settings` become what the use case declares once they are seen to be usable.

    Args:
        wanted: arms or families to run; empty is the default set.
        engine: which engine runs a local base model.
        full: ask every arm every item, instead of stopping once the verdict stands.
        budget_usd: most that this call may spend; what was answered before is free.
        budget_calls: most calls of the base model and the judge that it may make.
        lora_curve: draw the learning curve of LoRA pilots too (minutes each); that of heads always is.

    Raises:
        UserError: the data or settings cannot be used, or the budget pays for nothing; nothing was spent.
        EngineUnavailable: the base model or the judge cannot be reached; what was answered is kept.
    """
    prices = prices or Prices()
    budget = budget_of(settings, engine, prices, budget_usd, budget_calls)
    with folder.lock("advise"):
        materials = gather(settings)
        plan = plan_arms(materials.means(settings), wanted)
        _refuse_contradiction(settings, plan, wanted)
        folder.remember(settings)
        run = folder.new_run("advise")
        config = {"settings": settings.model_dump(mode="json"), "arms": list(plan.arms), "engine": engine}
        with job(run, config), ExitStack() as held:
            started = time.monotonic()
            bench = _open(folder, settings, workspace, materials, plan, engine, held)
            materials = _looked_at(materials, bench)
            judging = None
            if settings.judge is not None:
                judging, scorer = _judging(settings.judge, bench, materials, held, budget)
                materials = replace(materials, scorer=scorer)
            purse = Purse(budget, bench.cache, bench.engine, None if judging is None else judging.cost_of)
            measured = _measure(bench, materials, plan, purse, prices, full)
            write_text(run / "outcomes.jsonl", "".join(_line(row) for row in measured.rows))
            curves = _curves(bench, materials, measured, purse, lora_curve)
            verdict, tainted = _verdict(settings, materials, measured, curves, judging, full)
            again = Counter(measured.again) + Counter({"judge": 0 if judging is None else judging.used.again})
            advice = Advice(
                run,
                verdict,
                materials,
                plan,
                measured.arms,
                measured.costs,
                tuple(measured.rows),
                bench,
                prices,
                _covered(materials.findings, bench),
                time.monotonic() - started,
                judging,
                tainted,
                extras(measured.rows, measured.steps, budget, curves, full, again),
            )
            write_report(advice)
            in_force = {**verdict.to_json(), "run": run.name}
            write_json(folder.verdict_path, in_force)
    return advice


class _Measured(NamedTuple):
    """What the arms gave."""

    arms: tuple[ArmRun, ...]
    rows: list[dict[str, Any]]
    """Of outcomes.jsonl."""
    costs: dict[str, ArmCosts]
    steps: Progress
    again: dict[str, int]
    """By arm, requests beside those that were answered."""


def _measure(bench: Bench, materials: Materials, plan: Plan, purse: Purse, prices: Prices, full: bool) -> _Measured:
    """Ask the arms in steps until the verdict stands."""
    scored: dict[str, dict[str, dict[str, Any]]] = {}
    is_remote = purse.budget.base.remote
    with running(bench, plan.arms, purse) as asking:

        def score() -> list[dict[str, Any]]:
            return _score(scored, bench, materials, asking.runs())

        def now() -> DecisionSettings:
            return _decision(bench.settings, _costs(asking, prices, is_remote))

        asking.settle = score
        steps = run_steps(asking, lambda: OutcomeTable.from_rows(_table_rows(score())), now, full)
        arms = asking.runs()
        again = {arm.name: sum(result.attempts - 1 for result in arm.results) for arm in arms}
        again = {arm: n + asking.again.get(arm, 0) for arm, n in again.items()}
        return _Measured(arms, score(), _costs(asking, prices, is_remote), steps, again)


def _verdict(
    settings: UseCase,
    materials: Materials,
    measured: _Measured,
    curves: Sequence[Curve],
    judging: Judging | None,
    full: bool,
) -> tuple[Verdict, Contamination | None]:
    """The verdict with everything that bears on it, and what contaminated items did to it."""
    table_rows, steps = _table_rows(measured.rows), measured.steps
    decision = replace(_decision(settings, measured.costs), alpha=steps.alpha, stepwise=not full)
    verdict = decide(OutcomeTable.from_rows(table_rows), decision)
    verdict = replace(
        verdict,
        reasons=[*verdict.reasons, sentence(steps, full)],
        needs=[
            *verdict.needs,
            *out_of_budget(steps),
            *(need for c in curves if (need := c.need(settings.delta)) is not None),
        ],
        warnings=[*verdict.warnings, *(notice for c in curves if (notice := c.notice()) is not None)],
    )
    tainted = contamination(materials.findings, table_rows, verdict, decision)
    notices = [] if judging is None else judging.notices(materials.scorer)
    notices += [] if tainted is None else [tainted.notice()]
    notices += data_notices(materials.findings) + error_notices(measured.rows)
    return replace(verdict, warnings=[*verdict.warnings, *notices]), tainted


def _looked_at(materials: Materials, bench: Bench) -> Materials:
    """`materials` with what documents and tokenizer say of its rows."""
    found = [] if bench.retriever is None else corpus_findings(materials.rows, bench.retriever.texts())
    engine = bench.engine
    lengths = length_findings(bench.rows, bench.max_tokens, engine.context_window, engine.count_tokens)
    return replace(materials, findings=(*materials.findings, *found, *lengths))


def _open(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    materials: Materials,
    plan: Plan,
    engine: str,
    held: ExitStack,
) -> Bench:
    retriever, index_identity = None, ""
    if any(family(arm) in WITH_PASSAGES for arm in plan.arms) and settings.docs:
        from rag.ingest import ingest
        from rag.open import open_retriever

        ingest(folder, settings, workspace, settings.docs)
        retriever = open_retriever(folder, settings, workspace)
        held.callback(retriever.close)
        index_identity = retriever.version
    say(f"loading {settings.base_model}")
    base = open_engine(settings.base_model, workspace, engine)
    held.callback(base.close)
    known = starter(settings.base_model)
    return Bench(
        folder=folder,
        workspace=workspace,
        settings=settings,
        rows=materials.rows,
        train=materials.train,
        labels=materials.labels is not None,
        engine=base,
        model_identity=known.name if known is not None else settings.base_model,
        cache=AnswerCache(folder.path / "cache" / "answers.jsonl"),
        retriever=retriever,
        index_identity=index_identity,
        max_tokens=settings.max_tokens or answer_budget(materials.rows, materials.train, base.count_tokens),
        answer_format=materials.form.answer_format() or "",
    )


def _judging(
    settings: Judge, bench: Bench, materials: Materials, held: ExitStack, budget: Budget
) -> tuple[Judging, Scorer]:
    """The judge, measured, and the scorer that decides; a judge that is the base model shares its engine."""

    def open_(stack: ExitStack) -> Engine:
        if same_model(settings.model, bench.settings.base_model):
            return bench.engine
        say(f"loading the judge {settings.model}")
        engine = open_engine(settings.model, bench.workspace)
        stack.callback(engine.close)
        return engine

    seed = bench.settings.seed
    return open_judging(settings, materials.labelled, materials.scorer, open_, held, bench.cache, seed, budget)


def _refuse_contradiction(settings: UseCase, plan: Plan, wanted: Sequence[str]) -> None:
    """Raises ConfigError where --arms leaves out what a hard constraint leaves."""
    musts = DecisionSettings(constraints=settings.constraints).must_retrieve
    if musts and wanted and not any(family(arm) in ("retrieved", "tune_retrieved", "oracle") for arm in plan.arms):
        raise ConfigError(
            f"{', '.join(musts)} leaves only retrieval, and --arms {','.join(wanted)} measures none;"
            " add retrieved (it needs --docs), or drop the constraint"
        )


def _costs(asking: Running, prices: Prices, is_remote: bool) -> dict[str, ArmCosts]:
    found = {arm.name: arm_costs(arm.results, arm.elapsed_s, arm.build_s, prices, is_remote) for arm in asking.runs()}
    return {name: cost for name, cost in found.items() if cost is not None}


def _curves(bench: Bench, materials: Materials, measured: _Measured, purse: Purse, lora: bool) -> list[Curve]:
    closed = {row["item"]: score_of(row) for row in measured.rows if family(row["arm"]) == "closed"}
    curves = []
    for arm in measured.arms:
        heads = tuning_method(arm.name) == "head"
        if family(arm.name) == "tune" and (heads or lora):
            curve = learning_curve(bench, materials, arm, closed, purse, stop_early=not heads)
            curves += [] if curve is None else [curve]
    return curves


def _score(
    scored: dict[str, dict[str, dict[str, Any]]], bench: Bench, materials: Materials, runs: Sequence[ArmRun]
) -> list[dict[str, Any]]:
    """Rows of outcomes.jsonl; answers that `scored` (arm -> item -> row) does not hold are scored and added to it."""
    for run in runs:
        known = scored.setdefault(run.name, {})
        pairs = [(row, result) for row, result in zip(run.rows, run.results, strict=True) if row.id not in known]
        if pairs:
            rows, results = zip(*pairs, strict=True)
            found = cells(rows, results, materials.scorer, materials.form, bench.settings.refusals)
            known |= {cell["item"]: {"item": cell["item"], "arm": run.name, **cell} for cell in found}
    return [scored[run.name][row.id] for run in runs for row in run.rows]


def _covered(findings: Sequence[Finding], bench: Bench) -> dict[str, bool] | None:
    """Whether the documents hold each item's gold answer at all."""
    if bench.retriever is None:
        return None
    missing = {item for finding in findings if finding.code == "not_in_corpus" for item in finding.items}
    return {row.id: row.id not in missing for row in bench.rows}


def _table_rows(rows: Sequence[Mapping[str, Any]]) -> list[OutcomeRow]:
    names = ["item", "arm", "outcome", "content", "form", "cluster", "input_tokens", "output_tokens", "latency_s"]
    if any(row["outcome"] is None for row in rows):
        # A graded scorer without a threshold: the score is all there is.
        names.append("score")
    return [OutcomeRow(**{name: row[name] for name in names if name in row}) for row in rows]


def _decision(settings: UseCase, costs: Mapping[str, ArmCosts]) -> DecisionSettings:
    return DecisionSettings(
        delta=settings.delta,
        target=settings.target,
        constraints=settings.constraints,
        costs={arm: ArmCost(cost.usd_per_1k, cost.build_usd) for arm, cost in costs.items()},
        seed=settings.seed,
    )


def _line(row: Mapping[str, Any]) -> str:
    import json

    return json.dumps(row, ensure_ascii=False) + "\n"

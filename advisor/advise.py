"""The whole of `tunefork advise`: read, check, ask every arm, decide, write it down.

Every answer is cached as it comes and every pilot is kept, so a stopped or killed
run is resumed by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advisor.answers import AnswerCache
from advisor.arm_names import family
from advisor.arms import ArmRun, Bench, run_arm
from advisor.checks import Finding, corpus_findings
from advisor.cost import ArmCosts, Prices, arm_costs
from advisor.materials import Materials, answer_budget, gather
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.plan import Plan, plan_arms
from advisor.report import write_report
from advisor.rule import ArmCost, DecisionSettings
from advisor.scoring import outcome
from advisor.verdict import Verdict, decide
from core.engines.open import open_engine
from core.errors import EngineError
from core.files import write_json, write_text
from core.jobs import job
from core.models import remote, starter
from core.progress import say
from core.settings import UseCase
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


def advise(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    *,
    wanted: Sequence[str] = (),
    engine: str = "auto",
    prices: Prices | None = None,
) -> Advice:
    """Measure every arm that the use case's data supports, and put the verdict in force.

    Args:
        wanted: arms or families to run; empty is the default set.
        engine: which engine runs a local base model.

    Raises:
        UserError: the data or settings cannot be used; nothing was spent.
        EngineUnavailable: the base model cannot be reached; what was answered is kept.
    """
    with folder.lock("advise"):
        materials = gather(settings)
        plan = plan_arms(materials.means(settings), wanted)
        run = folder.new_run("advise")
        config = {"settings": settings.model_dump(mode="json"), "arms": list(plan.arms), "engine": engine}
        with job(run, config), ExitStack() as held:
            started = time.monotonic()
            bench = _open(folder, settings, workspace, materials, plan, engine, held)
            if bench.retriever is not None:
                found = corpus_findings(materials.rows, bench.retriever.texts())
                materials = replace(materials, findings=(*materials.findings, *found))
            arms = tuple(_run_all(bench, materials, plan))
            prices = prices or Prices()
            is_remote = remote(settings.base_model) is not None
            costs = {
                arm.name: cost
                for arm in arms
                if (cost := arm_costs(arm.results, arm.elapsed_s, arm.build_s, prices, is_remote)) is not None
            }
            rows = [row for arm in arms for row in outcome_rows(bench, materials, arm)]
            write_text(run / "outcomes.jsonl", "".join(_line(row) for row in rows))
            table = OutcomeTable.from_rows(_table_rows(rows))
            verdict = decide(table, _decision(settings, costs))
            took = time.monotonic() - started
            covered = _covered(materials.findings, bench)
            advice = Advice(run, verdict, materials, plan, arms, costs, tuple(rows), bench, prices, covered, took)
            write_report(advice)
            in_force = {**verdict.to_json(), "run": run.name}
            write_json(folder.verdict_path, in_force)
    return advice


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
    if (
        any(
            family(arm) in ("oracle", "oracle_few_shot", "retrieved", "tune_retrieved", "wrong_passage")
            for arm in plan.arms
        )
        and settings.docs
    ):
        from rag.ingest import ingest
        from rag.retrieve import open_retriever

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


def _run_all(bench: Bench, materials: Materials, plan: Plan) -> list[ArmRun]:
    runs = []
    for arm in plan.arms:
        run = run_arm(bench, arm)
        runs.append(run)
        scored = [row for row in outcome_rows(bench, materials, run) if row["outcome"] != "error"]
        right = sum(row["outcome"] == "correct" for row in scored)
        cached = f" ({run.cached} answers from the cache)" if run.cached else ""
        say(f"{arm}: {right} of {len(scored)} right{cached}")
    return runs


def _covered(findings: Sequence[Finding], bench: Bench) -> dict[str, bool] | None:
    """Whether the documents hold each item's gold answer at all."""
    if bench.retriever is None:
        return None
    missing = {item for finding in findings if finding.code == "not_in_corpus" for item in finding.items}
    return {row.id: row.id not in missing for row in bench.rows}


def outcome_rows(bench: Bench, materials: Materials, run: ArmRun) -> list[dict[str, Any]]:
    """Rows of outcomes.jsonl for one arm: the CONTRACT's fields, and the answer itself."""
    rows = []
    for row, result in zip(bench.rows, run.results, strict=True):
        cell: dict[str, Any] = {"item": row.id, "arm": run.name}
        if isinstance(result, EngineError):
            cell |= {"outcome": "error", "answer": "", "error": str(result)}
        else:
            scored = outcome(result.text, row, materials.scorer, materials.form, result.finish_reason)
            cell |= {
                "outcome": scored.outcome,
                "content": scored.content,
                "form": scored.form,
                "score": scored.score,
                "answer": result.text,
                "input_tokens": result.usage.prompt_tokens,
                "output_tokens": result.usage.completion_tokens,
                "latency_s": result.latency_s,
            }
        if row.cluster is not None:
            cell["cluster"] = row.cluster
        rows.append(cell)
    return rows


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

"""The whole of `tunefork advise`: read, check, ask every arm, decide, write it down.

Every answer is cached as it comes and every pilot is kept, so a stopped or killed
run is resumed by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.answers import AnswerCache
from advisor.arm_names import family
from advisor.arms import ArmRun, Bench, run_arm
from advisor.cost import ArmCosts, Prices, arm_costs
from advisor.materials import Materials, answer_budget, gather
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.passages import holds_answer
from advisor.plan import Plan, plan_arms
from advisor.report import write_report
from advisor.rule import ArmCost, DecisionSettings
from advisor.scoring import outcome
from advisor.verdict import Verdict, decide
from core.engines.base import Engine
from core.engines.open import open_engine
from core.errors import EngineError, UserError
from core.files import sha256_text, write_json, write_text
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
            covered = _covered(bench)
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
    base: Engine = open_engine(settings.base_model, workspace, engine)
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
        format_line=materials.form.answer_format() or "",
    )


def _run_all(bench: Bench, materials: Materials, plan: Plan) -> list[ArmRun]:
    runs = []
    closed_rate = 0.0
    for arm in plan.arms:
        run = run_arm(bench, arm)
        runs.append(run)
        right = _rate(bench, materials, run)
        say(f"{arm}: {right:.0%} right" + (f" ({run.cached} answers from the cache)" if run.cached else ""))
        if arm == "closed":
            closed_rate = right
        elif arm == "prompt" and right > closed_rate:
            # The rule's first step: a prompt that helps is adopted, and the arms after it build on it.
            bench.answer_format = bench.format_line
    return runs


def _covered(bench: Bench) -> dict[str, bool] | None:
    """Whether the documents hold each item's gold answer at all."""
    if bench.retriever is None:
        return None
    texts = [source.text for source in bench.retriever.documents(bench.retriever.document_ids)]
    return {row.id: any(holds_answer(text, row) for text in texts) for row in bench.rows if row.answers}


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


def _rate(bench: Bench, materials: Materials, run: ArmRun) -> float:
    rows = [row for row in outcome_rows(bench, materials, run) if row["outcome"] != "error"]
    return sum(row["outcome"] == "correct" for row in rows) / len(rows) if rows else 0.0


def _table_rows(rows: Sequence[Mapping[str, Any]]) -> list[OutcomeRow]:
    names = ("item", "arm", "outcome", "content", "form", "cluster", "input_tokens", "output_tokens", "latency_s")
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

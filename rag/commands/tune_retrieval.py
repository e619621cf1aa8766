"""`tunefork tune-retrieval NAME --eval F`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import ConfigError
from core.progress import progress, say
from core.workspace import open_workspace

if TYPE_CHECKING:
    from core.search_settings import SearchSettings
    from core.stats import Estimate
    from rag.tune import Tuning


@click.command("tune-retrieval")
@click.argument("name")
@click.option(
    "--eval", "eval_path", type=click.Path(path_type=Path), help="Rows with `context_ids`; default: the use case's."
)
@click.option("--qrels", type=click.Path(path_type=Path), help="Relevance judgements (BEIR's TSV or TREC's).")
@click.option("--latency-ms", type=click.FloatRange(min=0, min_open=True), help="Most milliseconds a query, at p95.")
@click.option("--rerank-model", metavar="M", help="Try this cross-encoder (folder or hub id) too.")
@click.option("--dry-run", is_flag=True, help="Measure, and leave the use case's settings as they are.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
def command(
    name: str,
    eval_path: Path | None,
    qrels: Path | None,
    latency_ms: float | None,
    rerank_model: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Choose how a use case's passages are searched for, by its own questions; no language model is asked.

    Half of the questions choose, the other half judges: the settings in force stay unless the choice is shown to be
    better there (p < 0.05), or they are over --latency-ms. Tried are the weight of meaning against words, reciprocal
    rank fusion, either search alone, the number of candidates, the reranker, and how many passages to show (top_k).
    Chunks stay as they were cut.
    """
    from core.rows import read_rows
    from rag.evaluate import judged_rows
    from rag.metrics import read_qrels
    from rag.retrieve import open_retriever
    from rag.tune import candidates, tune

    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    path = eval_path or settings.eval
    if path is None:
        raise ConfigError(f"use case {name!r} declares no eval set; give one with --eval F")
    judged = judged_rows(read_rows(path, "evaluation"), None if qrels is None else read_qrels(qrels))
    with open_retriever(folder, settings, workspace) as retriever:
        total = sum(1 for _ in candidates(retriever.settings, rerank_model))
        with progress("tune-retrieval", total, "settings") as tick:
            found = tune(retriever, judged, settings.top_k, latency_ms, settings.seed, rerank_model, tick)
    changed = (found.kept, found.top_k) != (settings.retrieval, settings.top_k)
    if changed and not dry_run:
        workspace.declare(name, {"retrieval": _said(found.kept), "top_k": found.top_k})
    value = _json(name, found, changed=changed and not dry_run)
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else _text(value))
    if changed and not dry_run and folder.verdict() is not None:
        say(f"the verdict was measured with the settings of before; run `tunefork advise {name}` to measure it again")


def _json(name: str, found: Tuning, *, changed: bool) -> dict[str, Any]:
    return {
        "use_case": name,
        "n": {"dev": found.dev, "test": found.test},
        "metric": "ndcg@10",
        "current": {
            "settings": _said(found.current),
            "test": _estimate(found.current_score),
            "p95_ms": found.current_p95_ms,
            "top_k": found.current_top_k,
            "recall@top_k": _estimate(found.recall_current_top_k),
        },
        "best": {
            "settings": _said(found.best),
            "test": _estimate(found.best_score),
            "p95_ms": found.best_p95_ms,
        },
        "difference": {**_estimate(found.difference), "p": found.p},
        "kept": {
            "settings": _said(found.kept),
            "top_k": found.top_k,
            "recall@top_k": _estimate(found.recall_top_k),
        },
        "why": found.why,
        "written": changed,
        "tried": [{"settings": _said(one.settings), "dev": one.score, "p95_ms": one.p95_ms} for one in found.tried],
    }


def _said(settings: SearchSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_defaults=True)


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _text(value: dict[str, Any]) -> str:
    current, best, kept, difference = value["current"], value["best"], value["kept"], value["difference"]
    lines = [
        f"{value['use_case']}: chosen on {value['n']['dev']} questions, judged on {value['n']['test']} others (nDCG@10)",
        f"  current  {_line(current)}",
        f"  best     {_line(best)}",
        f"  best - current  {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}],"
        f" p = {difference['p']:.2g}",
        f"kept: {_named(kept['settings'])}: {value['why']}",
        f"top_k: {kept['top_k']} (recall {_share(kept['recall@top_k'])}; with {current['top_k']},"
        f" {_share(current['recall@top_k'])})",
        "written to the use case's settings" if value["written"] else "the use case's settings stay as they are",
    ]
    return "\n".join(lines)


def _line(one: dict[str, Any]) -> str:
    return f"{_share(one['test'])}  p95 {one['p95_ms']:.1f} ms  {_named(one['settings'])}"


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items()) or "the defaults"


def _share(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"

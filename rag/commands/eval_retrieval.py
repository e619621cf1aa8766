"""`tunefork eval-retrieval NAME --eval F`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import ConfigError
from core.progress import say
from core.workspace import open_workspace

if TYPE_CHECKING:
    from rag.evaluate import Evaluation
    from rag.origin import Origin


@click.command("eval-retrieval")
@click.argument("name")
@click.option(
    "--eval", "eval_path", type=click.Path(path_type=Path), help="Rows with `context_ids`; default: the use case's."
)
@click.option("--qrels", type=click.Path(path_type=Path), help="Relevance judgements (BEIR's TSV or TREC's).")
@click.option(
    "--per-query", type=click.Path(path_type=Path), help="Write each query's ranking and scores here (JSONL)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one JSON document.")
def command(name: str, eval_path: Path | None, qrels: Path | None, per_query: Path | None, as_json: bool) -> None:
    """Recall, MRR and nDCG of a use case's index, with their intervals."""
    from core.rows import read_rows
    from rag.evaluate import evaluate
    from rag.metrics import read_qrels
    from rag.retrieve import open_retriever

    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    path = eval_path or settings.eval
    if path is None:
        raise ConfigError(f"use case {name!r} declares no eval set; give one with --eval F")
    rows = read_rows(path, "evaluation")
    judged = read_qrels(qrels) if qrels is not None else None
    with open_retriever(folder, settings, workspace) as retriever:
        result = evaluate(retriever.search, retriever.document_ids, rows, judged)
        value = _json(result, retriever.origin, retriever.version)
    if per_query is not None:
        _write_queries(per_query, result)
    if result.unknown_gold:
        say(f"{result.unknown_gold} relevant documents are not in the index; they count as missed")
    if result.without_gold:
        say(f"{result.without_gold} rows have no relevant document marked; they are not scored")
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    click.echo(f"{name}: {len(result.queries)} queries, {value['configuration']['passages']} passages")
    for metric, estimate in result.metrics.items():
        click.echo(f"  {metric:<10} {estimate.value:.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]")
    click.echo(f"  latency    p50 {result.latency_p50_ms:.1f} ms, p95 {result.latency_p95_ms:.1f} ms")


def _json(result: Evaluation, origin: Origin, version: str) -> dict[str, Any]:
    metrics = {m: {"value": e.value, "low": e.low, "high": e.high} for m, e in result.metrics.items()}
    return {
        "n": len(result.queries),
        **metrics,
        "latency_ms": {"p50": result.latency_p50_ms, "p95": result.latency_p95_ms},
        "without_gold": result.without_gold,
        "unknown_gold": result.unknown_gold,
        "configuration": {
            "index_version": version,
            "embedding_model": origin.embedding_model,
            "chunking": origin.chunking,
            "documents": origin.documents,
            "passages": origin.passages,
        },
    }


def _write_queries(path: Path, result: Evaluation) -> None:
    from core.files import write_text

    lines = [
        json.dumps({"id": q.id, "ranking": list(q.ranking[:10]), **q.scores}, ensure_ascii=False)
        for q in result.queries
    ]
    write_text(path, "\n".join(lines) + "\n")

"""`tunefork eval-retrieval NAME --eval F`"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from core.errors import ConfigError
from core.progress import say
from core.search_settings import Method, SearchSettings
from core.workspace import open_workspace
from rag.commands.search_options import overlaid, read_search_settings, search_options

if TYPE_CHECKING:
    from core.stats import Estimate
    from rag.evaluate import Evaluation
    from rag.origin import Origin

METHODS = get_args(Method)
SCORES = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")


@click.command("eval-retrieval")
@click.argument("name")
@click.option(
    "--eval", "eval_path", type=click.Path(path_type=Path), help="Rows with `context_ids`; default: the use case's."
)
@click.option("--qrels", type=click.Path(path_type=Path), help="Relevance judgements (BEIR's TSV or TREC's).")
@click.option(
    "--per-query", type=click.Path(path_type=Path), help="Write each query's ranking and scores here (JSONL)."
)
@search_options
@click.option(
    "--against", metavar="METHOD|FILE", help="Compare with this method, or with the [retrieval] table of a TOML file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one JSON document.")
def command(
    name: str,
    eval_path: Path | None,
    qrels: Path | None,
    per_query: Path | None,
    against: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Recall, MRR and nDCG of a use case's index, with their intervals.

    It searches as the use case declares; the flags say otherwise. With --against, both configurations answer the same
    queries: the difference has its interval (paired bootstrap) and p (sign-flip test).
    """
    from core.rows import read_rows
    from rag.evaluate import compare, evaluate
    from rag.metrics import read_qrels
    from rag.open import open_retriever

    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    path = eval_path or settings.eval
    if path is None:
        raise ConfigError(f"use case {name!r} declares no eval set; give one with --eval F")
    search = overlaid(settings.retrieval, flags)
    other_search = None if against is None else _against(against, settings.retrieval)
    rows = read_rows(path, "evaluation")
    judged = read_qrels(qrels) if qrels is not None else None
    with open_retriever(folder, settings, workspace) as retriever:
        result = evaluate(partial(retriever.search, settings=search), retriever.document_ids, rows, judged)
        value = _json(result, retriever.origin, retriever.version, search)
        if other_search is not None:
            other = evaluate(partial(retriever.search, settings=other_search), retriever.document_ids, rows, judged)
            value["against"] = {"name": against, "method": other_search.method, "settings": _said(other_search)} | {
                metric: {"difference": _estimate(difference), "p": p}
                for metric, (difference, p) in compare(result, other).items()
            }
    if per_query is not None:
        _write_queries(per_query, result)
    if result.unknown_gold:
        say(f"{result.unknown_gold} relevant documents are not in the index; they count as missed")
    if result.without_gold:
        say(f"{result.without_gold} rows have no relevant document marked; they are not scored")
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else _text(name, value))


def _against(text: str, declared: SearchSettings) -> SearchSettings:
    if text in METHODS:
        return overlaid(declared, {"method": text})
    if not Path(text).is_file():
        raise ConfigError(f"--against {text!r}: neither a method ({', '.join(METHODS)}) nor a TOML file")
    return read_search_settings(Path(text))


def _said(settings: SearchSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_defaults=True)


def _json(result: Evaluation, origin: Origin, version: str, search: SearchSettings) -> dict[str, Any]:
    return {
        "n": len(result.queries),
        **{metric: _estimate(estimate) for metric, estimate in result.metrics.items()},
        "latency_ms": {"p50": result.latency_p50_ms, "p95": result.latency_p95_ms},
        "without_gold": result.without_gold,
        "unknown_gold": result.unknown_gold,
        "configuration": {
            "method": search.method,
            "settings": _said(search),
            "index_version": version,
            "embedding_model": origin.embedding_model,
            "language": origin.language,
            "chunking": origin.chunking,
            "documents": origin.documents,
            "passages": origin.passages,
        },
    }


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _text(name: str, value: dict[str, Any]) -> str:
    used = value["configuration"]
    lines = [f"{name}: {value['n']} queries, {used['passages']} passages, {used['method']} search"]
    against = value.get("against")
    for metric in SCORES:
        score = value[metric]
        line = f"  {metric:<10} {score['value']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]"
        if against:
            difference = against[metric]["difference"]
            line += (
                f"   {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
                f" against {against['name']}, p = {against[metric]['p']:.2g}"
            )
        lines.append(line)
    latency = value["latency_ms"]
    lines.append(
        f"  latency    p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms, the query's embedding included"
    )
    return "\n".join(lines)


def _write_queries(path: Path, result: Evaluation) -> None:
    from core.files import write_text

    lines = [
        json.dumps({"id": q.id, "ranking": list(q.ranking[:10]), **q.scores}, ensure_ascii=False)
        for q in result.queries
    ]
    write_text(path, "\n".join(lines) + "\n")

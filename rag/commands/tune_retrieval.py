"""`tunefork tune-retrieval NAME --eval F`"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    from rag.tune_chunks import ChunkTuning


@click.command("tune-retrieval")
@click.argument("name")
@click.option(
    "--eval", "eval_path", type=click.Path(path_type=Path), help="Rows with `context_ids`; default: the use case's."
)
@click.option("--qrels", type=click.Path(path_type=Path), help="Relevance judgements (BEIR's TSV or TREC's).")
@click.option("--latency-ms", type=click.FloatRange(min=0, min_open=True), help="Most milliseconds a query, at p95.")
@click.option("--rerank-model", metavar="M", help="Try this cross-encoder (folder or hub id) too.")
@click.option("--chunk-tokens", metavar="N,N", help="Try these lengths of chunks too: an index for each, made aside.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    help="Most that those indexes may take, by an estimate made before.",
)
@click.option("--dry-run", is_flag=True, help="Measure, and leave the use case's settings as they are.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
def command(
    name: str,
    eval_path: Path | None,
    qrels: Path | None,
    latency_ms: float | None,
    rerank_model: str | None,
    chunk_tokens: str | None,
    minutes: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Choose how a use case's passages are searched for, by its own questions; no language model is asked.

    Half of the questions choose, the other half judges: the settings in force stay unless the choice is shown to be
    better there (p < 0.05), or they are over --latency-ms. Tried are the weight of meaning against words, reciprocal
    rank fusion, either search alone, the number of candidates, the reranker, and how many passages to show (top_k).
    With --chunk-tokens, then the length of chunks, with the settings kept.
    """
    from core.rows import read_rows
    from rag.evaluate import judged_rows
    from rag.metrics import read_qrels
    from rag.open import open_retriever
    from rag.tune import candidates, tune
    from rag.tune_chunks import estimate_s, tune_chunks

    workspace = open_workspace()
    folder = workspace.use_case(name)
    settings = folder.settings()
    path = eval_path or settings.eval
    if path is None:
        raise ConfigError(f"use case {name!r} declares no eval set; give one with --eval F")
    lengths = _lengths(chunk_tokens, settings.docs)
    judged = judged_rows(read_rows(path, "evaluation"), None if qrels is None else read_qrels(qrels))
    with open_retriever(folder, settings, workspace) as retriever:
        total = sum(1 for _ in candidates(retriever.settings, rerank_model))
        with progress("tune-retrieval", total, "settings") as tick:
            found = tune(retriever, judged, settings.top_k, latency_ms, settings.seed, rerank_model, tick)
        seconds = estimate_s(retriever, lengths) if lengths else 0.0
    chunks = None
    if lengths:
        say(f"indexes of {len(lengths)} lengths of chunks: about {seconds / 60:.1f} minutes")
        if seconds > 60 * minutes:
            raise ConfigError(
                f"indexes of {len(lengths)} lengths would take about {seconds / 60:.0f} minutes, over --minutes {minutes:g};"
                " try fewer lengths, or give it more"
            )
        with progress("tune-retrieval", len(lengths), "lengths") as tick:
            chunks = tune_chunks(folder, settings, workspace, judged, found.kept, lengths, tick)
    changed = (found.kept, found.top_k) != (settings.retrieval, settings.top_k) or (
        chunks is not None and chunks.changed
    )
    if changed and not dry_run:
        choice: dict[str, Any] = {"retrieval": _said(found.kept), "top_k": found.top_k}
        workspace.declare(
            name, choice | ({"chunk_tokens": chunks.kept} if chunks is not None and chunks.changed else {})
        )
    value = _json(name, found, changed=changed and not dry_run)
    if chunks is not None:
        value["chunks"] = _chunks_json(chunks, seconds)
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else _text(value))
    if chunks is not None and chunks.changed and not dry_run:
        say(f"the index has the old chunks still; run `tunefork rebuild {name}`")
    if changed and not dry_run and folder.verdict() is not None:
        say(f"the verdict was measured with the settings of before; run `tunefork advise {name}` to measure it again")


def _lengths(given: str | None, docs: Sequence[Path]) -> list[int]:
    """The lengths that `--chunk-tokens` names, each once."""
    if given is None:
        return []
    try:
        lengths = list(dict.fromkeys(int(part) for part in given.split(",")))
    except ValueError:
        raise ConfigError(f"--chunk-tokens {given!r}: must be numbers of tokens, as in 128,256,400") from None
    if wrong := [n for n in lengths if not 32 <= n <= 8192]:
        raise ConfigError(f"--chunk-tokens {wrong[0]}: must be from 32 to 8192")
    if not docs:
        raise ConfigError("--chunk-tokens needs the documents, and the use case names none (docs)")
    return lengths


def _chunks_json(found: ChunkTuning, estimate: float) -> dict[str, Any]:
    return {
        "kept": found.kept,
        "why": found.why,
        "current": _estimate(found.current_score),
        "best": {"chunk_tokens": found.best, "test": _estimate(found.best_score)},
        "difference": {**_estimate(found.difference), "p": found.p},
        "tried": [
            {"chunk_tokens": one.chunk_tokens, "passages": one.passages, "dev": one.score} for one in found.tried
        ],
        "estimate_s": estimate,
        "seconds": found.seconds,
    }


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
        *(_chunk_lines(value["chunks"]) if "chunks" in value else ()),
        "written to the use case's settings" if value["written"] else "the use case's settings stay as they are",
    ]
    return "\n".join(lines)


def _chunk_lines(found: dict[str, Any]) -> list[str]:
    best, difference = found["best"], found["difference"]
    return [
        f"chunks: {_length(found['kept'])}: {found['why']}",
        f"  best on dev {_length(best['chunk_tokens'])}: {_share(best['test'])} against {_share(found['current'])},"
        f" {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
    ]


def _length(tokens: int | None) -> str:
    return "the default length" if tokens is None else f"up to {tokens} tokens"


def _line(one: dict[str, Any]) -> str:
    return f"{_share(one['test'])}  p95 {one['p95_ms']:.1f} ms  {_named(one['settings'])}"


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items()) or "the defaults"


def _share(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"

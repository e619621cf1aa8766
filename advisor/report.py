"""The report of a run: one JSON document that holds everything, and its HTML and Markdown faces."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from advisor.arms import ArmRun
from advisor.checks import LEAKS, Finding
from advisor.fit import hardware_fit
from advisor.html_report import render_html
from advisor.ledger import CAUSES, ledger
from advisor.markdown_report import render_markdown
from advisor.money import break_even
from advisor.readiness import retrieval_readiness
from core.errors import EngineError
from core.files import append_jsonl, write_json, write_text
from core.power import detectable_points

if TYPE_CHECKING:
    from advisor.advise import Advice

GRAVE = frozenset([*LEAKS, "conflicting_gold", "fact_teaching", "not_in_corpus", "unparseable"])
"""Findings that bear on the verdict itself; the others are worth a look."""

PACKAGES = ("tunefork", "torch", "transformers", "peft", "sentence-transformers", "chromadb", "llama-index-core")


def write_report(advice: Advice) -> None:
    """Write report.json, report.html, report.md and ledger.jsonl into the run folder."""
    document = report_document(advice)
    write_json(advice.run / "report.json", document)
    write_text(advice.run / "report.html", render_html(document))
    write_text(advice.run / "report.md", render_markdown(document))
    for row in document["ledger"]["rows"]:
        append_jsonl(advice.run / "ledger.jsonl", row)


def report_document(advice: Advice) -> dict[str, Any]:
    """Everything a reader or a script may want to know of the run, as plain JSON values."""
    verdict = advice.verdict.to_json()
    materials, bench = advice.materials, advice.bench
    arms = [_arm(advice, arm, verdict) for arm in advice.arms]
    retrieval = retrieval_readiness(bench.rows, bench.retriever, bench.settings.top_k)
    return {
        "schema_version": 1,
        "use_case": bench.settings.name,
        "description": bench.settings.description,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": advice.run.name,
        "tunefork": _version("tunefork"),
        "elapsed_s": round(advice.elapsed_s, 1),
        "settings": bench.settings.model_dump(mode="json"),
        "verdict": verdict,
        "data": {
            "eval_rows": len(materials.rows),
            "train_rows": len(materials.train),
            "labels": None if materials.labels is None else len(materials.labels),
            "max_tokens": bench.max_tokens,
            "detectable": detectable(len(materials.rows)),
        },
        "scorer": {"name": materials.scorer.name, "rule": materials.scorer.rule, "why": materials.scorer.why},
        "judge": None if advice.judging is None else advice.judging.document(),
        "contamination": None if advice.contamination is None else advice.contamination.document(),
        "form": materials.form.describe(),
        "answer_format": bench.answer_format,
        "arms": arms,
        "absent": [absent._asdict() for absent in advice.plan.absent],
        "checks": [_check(finding) for finding in materials.findings],
        "retrieval": retrieval,
        "hardware": _hardware(advice, arms),
        "ledger": _ledger(advice, retrieval),
        "costs": _costs(advice, arms),
        "provenance": {
            "hashes": materials.hashes,
            "seed": bench.settings.seed,
            "model": bench.model_identity,
            "index_version": bench.index_identity,
            "pilots": {arm: pilot.identity for arm, pilot in bench.pilots.items()},
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "prompts": {
                arm.name: [{"role": m.role, "content": m.content} for m in arm.requests[0].messages]
                for arm in advice.arms
                if arm.requests
            },
        },
        **advice.extras,
    }


def detectable(n: int) -> str:
    """What `n` items can show, in one sentence (exact McNemar, 5 % lost, 80 % power)."""
    points = detectable_points(n)
    if points is None:
        return f"{n} items are too few to show any gain reliably; 37 show one of 30 points"
    return f"{n} items show a gain of {points} points in four cases of five; smaller gains may stay unseen"


def _arm(advice: Advice, arm: ArmRun, verdict: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in advice.outcomes if row["arm"] == arm.name]
    scored = [row for row in rows if row["outcome"] != "error"]
    against_closed = next(
        (
            c
            for c in verdict["comparisons"]
            if c["arm"] == arm.name and c["against"] == "closed" and c["measure"] == "correct"
        ),
        None,
    )
    latencies = [r.latency_s for r in arm.results if not isinstance(r, EngineError)]
    cost = advice.costs.get(arm.name)
    out = {
        "name": arm.name,
        **{
            key: verdict["arms"][arm.name][key]
            for key in ("n", "correct", "wrong", "refused", "error", "rate", "low", "high")
        },
        "content_rate": _mean([row.get("content") for row in scored]),
        "form_rate": _mean([row.get("form") for row in scored]),
        "latency_p50_s": _percentile(latencies, 50),
        "latency_p95_s": _percentile(latencies, 95),
        "build_s": round(arm.build_s, 1),
        "cached": arm.cached,
        "note": advice.bench.notes.get(arm.name, ""),
    }
    if against_closed is not None:
        gain = against_closed["gain"]
        out |= {key: against_closed[key] for key in ("gained", "lost", "p", "p_holm")}
        out |= {"gain": gain["value"], "gain_low": gain["low"], "gain_high": gain["high"]}
    if cost is not None:
        out |= cost._asdict()
    return out


def _costs(advice: Advice, arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    spent = sum(
        (row.get("usd_per_1k") or 0.0) * len(arm.results) / 1000 for row, arm in zip(arms, advice.arms, strict=True)
    )
    judged = 0.0 if advice.judging is None else advice.judging.used.usd
    built = sum(row.get("build_usd") or 0.0 for row in arms)
    return {
        **advice.prices._asdict(),
        "total_calls": sum(len(arm.results) for arm in advice.arms),
        "total_s": round(sum(arm.elapsed_s + arm.build_s for arm in advice.arms), 1),
        "judge_usd": judged,
        "total_usd": spent + built + judged,
        "break_even": [found._asdict() for found in break_even(arms, spent)],
    }


def _hardware(advice: Advice, arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the route needs, at the length of the longest arm's queries."""
    longest = max((row.get("input_tokens") or 0.0 for row in arms), default=0.0)
    labels = advice.materials.labels
    return hardware_fit(
        advice.bench.settings,
        advice.verdict.route,
        advice.verdict.method,
        longest + advice.bench.max_tokens,
        0 if labels is None else len(labels),
    )


def _check(finding: Finding) -> dict[str, Any]:
    severity = "warning" if finding.code in GRAVE else "info"
    return {
        "code": finding.code,
        "severity": severity,
        "text": finding.text,
        "count": finding.count,
        "examples": list(finding.examples),
        "items": list(finding.items),
    }


def _ledger(advice: Advice, retrieval: Mapping[str, Any] | None) -> dict[str, Any]:
    by_item: dict[str, dict[str, Any]] = {}
    for row in advice.outcomes:
        by_item.setdefault(row["item"], {})[row["arm"]] = row
    suspect = {
        item for finding in advice.materials.findings if finding.code == "conflicting_gold" for item in finding.items
    }
    shown = None
    if retrieval is not None:
        missed = set(retrieval["missed"])
        shown = {row.id: row.id not in missed for row in advice.materials.rows if row.context_ids and row.answerable}
    rows = ledger(advice.materials.rows, by_item, advice.covered, suspect, shown)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["cause"]] = counts.get(row["cause"], 0) + 1
    return {
        "counts": dict(sorted(counts.items(), key=lambda item: -item[1])),
        "meanings": {cause: CAUSES[cause] for cause in counts},
        "rows": rows,
    }


def _mean(values: list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _percentile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    if len(values) == 1:
        return round(values[0], 4)
    return round(quantiles(values, n=100, method="inclusive")[percent - 1], 4)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"

"""A report document with every part, for the tests of what is written from it."""

from __future__ import annotations

import json
import random
from typing import Any

from advisor.ledger import CAUSES
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.verdict import decide

EVIL = "<script>top.hacked = 1</script><img src=x onerror='top.hacked = 1'>"
RATES = {
    "closed": 0.1,
    "prompt": 0.12,
    "few_shot:8": 0.3,
    "oracle": 0.5,
    "retrieved": 0.3,
    "tune:head": 0.8,
    "wrong_passage": 0.05,
}


def document(n: int = 60, answer: str = "card_arrival", rates: dict[str, float] = RATES) -> dict[str, Any]:
    """A report document whose verdict is really decided on drawn outcomes."""
    draw = random.Random(1)
    rows, failed = [], []
    for i in range(n):
        hard = draw.random()
        right = {arm: 0.4 * draw.random() + 0.6 * hard < rate for arm, rate in rates.items()}
        rows += [
            OutcomeRow(f"q{i}", arm, "correct" if ok else "wrong", content=int(ok or draw.random() < 0.2))
            for arm, ok in right.items()
        ]
        if not right["closed"]:
            answers = {arm: {"outcome": "correct" if ok else "wrong", "text": answer} for arm, ok in right.items()}
            cause = draw.choice(["few_shot_fixes", "tuning_fixes", "unfixable"])
            failed.append({"item": f"q{i}", "cause": cause, "input": f"Where is my card? {EVIL}", "gold": ["card_arrival"], "answers": answers})  # fmt: skip
    failed[-1]["cause"] = "not_in_corpus"
    verdict = json.loads(json.dumps(decide(OutcomeTable.from_rows(rows)).to_json()))
    counts = {cause: sum(row["cause"] == cause for row in failed) for cause in {row["cause"] for row in failed}}
    return {
        "schema_version": 1,
        "use_case": "banking",
        "description": f"Intents {EVIL}",
        "created": "2026-01-02T03:04:05+00:00",
        "run": "20260102T030405-advise",
        "tunefork": "0.1.0",
        "elapsed_s": 241.0,
        "settings": {"base_model": "m", "delta": 0.05, "target": 0.9, "constraints": {"must_cite": True}},
        "verdict": verdict,
        "data": {"eval_rows": n, "train_rows": 9, "detectable": f"{n} items show a gain of 20 points"},
        "scorer": {"name": "label", "rule": "the label is named", "why": "There are 77 labels."},
        "form": ["The answer is a label, alone."],
        "arms": [
            {"name": arm, **counted, "latency_p50_s": 0.21, "latency_p95_s": 75.0, "usd_per_1k": 0.0123, "note": ""}
            for arm, counted in verdict["arms"].items()
        ],
        "absent": [{"arm": "tune_retrieved", "why": "there are no documents", "supply": "documents (--docs PATH)"}],
        "checks": [
            {"code": "leakage", "severity": "warning", "text": "2 items leak.", "count": 2, "examples": ["q1"]},
            {"code": "duplicates", "severity": "info", "text": "3 rows repeat.", "count": 3, "examples": []},
        ],
        "ledger": {"counts": counts, "meanings": {cause: CAUSES[cause] for cause in counts}, "rows": failed},
        "costs": {
            "machine_usd_per_hour": 0.1,
            "total_calls": 420,
            "total_s": 200.0,
            "total_usd": 0.05,
            "break_even": [
                {
                    "arm": "tune:head",
                    "against": "retrieved",
                    "build_usd": 0.004,
                    "eval_usd": 0.05,
                    "saving_usd_per_1k": 0.02,
                    "queries": 2700,
                    "queries_per_usd": 50_000.0,
                    "text": "tune:head is the cheaper one from 2,700 queries on.",
                }
            ],
        },
        "provenance": {
            "hashes": {"eval": "ab12"},
            "seed": 0,
            "model": "m",
            "versions": {"torch": "2.13"},
            "prompts": {"closed": [{"role": "user", "content": f"Hello {EVIL}"}]},
        },
        **measured_besides(),
    }


def measured_besides() -> dict[str, Any]:
    """Parts that only some runs have."""

    def estimate(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50}

    curve = {
        "arm": "tune:lora",
        "points": [
            {"rows": rows, "seed": seed, "rate": rate, "low": rate - 0.1, "high": rate + 0.1}
            for rows, seed, rate in ((50, 0, 0.2), (50, 1, 0.3), (100, 0, 0.35), (200, 0, 0.5))
        ],
        "closed": 0.1,
        "doubling": {"rows": 400, "rate": 0.6, "low": 0.4, "high": 0.7},
        "stop_rule": {"rows": 50, "gain": 0.15, "low": 0.05, "high": 0.25, "stop": False},
        "text": f"Each doubling gains 12 points. {EVIL}",
    }
    job = {
        "what": "train the adapter",
        "model": "m",
        "seq_len": 512,
        "memory_gb": {"low": 1.0, "mid": 2.5, "high": 3.0},
        "from_gb": 8,
        "cards": ["L4 (24 GB)"],
        "machine": {"ram_gb": 25.0, "cores": 2, "memory_gb": 3.1, "fits": True},
    }
    return {
        "retrieval": {
            "n": 50,
            "top_k": 4,
            "in_prompt": estimate(0.8),
            "recall@5": estimate(0.85),
            "mrr": estimate(0.7),
            "unknown_gold": 1,
            "without_gold": 10,
            "latency_p50_ms": 6.0,
            "latency_p95_ms": 9.0,
        },
        "hardware": {"jobs": [job], "text": "This machine holds it."},
        "learning_curve": [curve],
        "sequential": {
            "calls": 310,
            "full_calls": 900,
            "saved_calls": 590,
            "saved_share": 0.6556,
            "why": "The verdict was clear.",
            "looks": [
                {"items": 20, "calls": 180, "alpha": 0.0004, "route": "undecided", "leading": "rag", "confidence": 0.7}
            ],
            "dropped": [{"arm": "prompt", "items": 40, "why": "it cannot reach the leader."}],
        },
        "budget": {"text": "It spent $0.31 of $1.00."},
        "harm": [
            {"arm": "tune:head", "n": 60, "broken": 3, "items": [{"item": "q9", "was": "correct", "is": "wrong"}]},
        ],
        "failures": {"errors": {"tune:head": 3}, "text": "3 calls failed."},
        "contamination": {
            "n": 2,
            "of": 60,
            "arms": {"closed": {"with": {"n": 60, "rate": 0.1}, "without": {"n": 58, "rate": 0.08}}},
            "verdict_without": {"route": "tune", "method": "head"},
            "verdict_changes": False,
        },
        "judge": {
            "model": "judge-7b",
            "trusted": True,
            "why": "its kappa is high enough",
            "least_kappa": 0.6,
            "agreement": {"n": 60, "rate": estimate(0.9), "kappa": estimate(0.8), "turned": 3},
            "judged": 500,
            "unjudged": 0,
        },
    }

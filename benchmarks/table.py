"""Write README's tables of figures from the raw results, so that no figure is typed by hand.

.venv/bin/python -m benchmarks.table
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- numbers -->", "<!-- end of numbers -->"


def demo_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/demo.py."""
    size, help_s = result["install_gb"], result["help_s"]
    rows = [
        (
            "installed size, with torch and the tools of `.[dev]`",
            f"{size['all']:.1f} GB ({size['torch']:.1f} torch)",
            "",
        ),
        ("`tunefork --help`, median", f"{help_s['median']:.2f} s", "< 0.3 s"),
    ]
    if "demo" in result:
        demo = result["demo"]
        rows += [
            ("`tunefork demo`, first run", f"{demo['first']['wall_s'] / 60:.1f} min", "< 15 min"),
            ("`tunefork demo`, again in the same workspace", f"{demo['again']['wall_s'] / 60:.1f} min", ""),
            ("peak memory of its largest process", f"{demo['peak_memory_gb']:.1f} GiB", "< 4 GiB"),
        ]
    return rows


def verdict_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/verdicts.py."""
    power, false = result["power_at_100"], result["false_action"]["100"]
    stepped = result["calls_in_steps"]
    return [
        ("acts where nothing helps, n = 100", _percent(false["ours"]), "<= 5 %"),
        ("the same, choosing the best mean", _percent(false["best_mean"]), ""),
        ("acts on a true +20 points, n = 100 (rag)", _percent(power["rag+20"]["acted"]), ">= 95 %"),
        ("acts on a true +15 points, n = 100 (rag)", _percent(power["rag+15"]["acted"]), ">= 80 %"),
        ("right where it decides, n = 100", _percent(result["accuracy"]["100"]["ours_when_decided"]), ""),
        ("regret against the best arm, n = 100", _points(result["regret_points"]["100"]["ours"]), "<= 1 point"),
        (
            "calls of the full grid that asking in steps needs, all sizes from 8 to 1,000",
            _percent(stepped["all"]["share_of_grid"]),
            "<= 1/3",
        ),
        *((f"... n = {n}", _percent(stepped[n]["share_of_grid"]), "") for n in ("60", "100", "200", "400", "1000")),
        ("right verdicts in steps, all sizes", _percent(stepped["all"]["accuracy_in_steps"]), "as on the full grid"),
        ("right verdicts on the full grid, all sizes", _percent(stepped["all"]["accuracy_full"]), ""),
        ("right verdicts in steps, n = 100", _percent(result["accuracy"]["100"]["in_steps"]), "as on the full grid"),
        ("right verdicts on the full grid, n = 100", _percent(result["accuracy"]["100"]["ours"]), ""),
        ("95 % intervals that hold the truth", _percent(result["coverage"]["gain_alone"]), "95 +- 1.5 %"),
        ("Brier score of the confidence", _plain(result["brier"]["all"]), "<= .10"),
    ]


def advise_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/advise.py; what was not run or not finished is said."""
    right = f"{result['right']} of {result['judged']} use cases"
    if result["right_undecided"]:
        right += f" ({result['right_undecided']} of them undecided, where no arm is more than 5 points over the base)"
    full = sum(found["form"] == "full" for found in result["use_cases"])
    quick = len(result["use_cases"]) - full
    forms = f"{full} use cases in the full form" + (f", {quick} in the quick form" if quick else "")
    rows = [(f"picks within 5 points of the best arm ({forms})", right, "all")]
    for found in result["use_cases"]:
        held, n = found["held_out"], found["drawn"]["held_out"]
        what = f"{found['use_case']} ({found['chosen_for']}), {found['drawn']['eval']} + {n} items"
        if "pick" not in found:
            rows.append((what, f"not finished: {', '.join(found['missing_arms'])} to build", ""))
            continue
        pick, best = found["pick"], found["best"]
        route = found["route"] if found["route"] in ("base", "none", "undecided") else pick
        measured = f"{route}: {_percent(held[pick])}"
        measured += "" if best == pick else f"; best {best}: {_percent(held[best])}"
        rows.append((what, measured, "met" if found["within_delta"] else f"missed: {found['why']}"))
    if result["not_run"]:
        rows.append((f"not run: {', '.join(result['not_run'])}", "", ""))
    return rows


def ingest_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/ingest.py; a part that was not run has no row."""
    rows = []
    if "rate" in result:
        rate = result["rate"]
        cores = f"{rate['machine']['cores']} cores"
        quick, slow = sorted(rate["encode_s"])
        rows += [
            (
                f"ingest against the encoder alone, {rate['passages']:,} passages of {rate['files']} files, {cores}",
                f"{rate['share']:.2f} ({rate['passages_per_s']:.0f} of {rate['encode_passages_per_s']:.0f} passages/s)"
                if slow < 1.2 * quick
                else f"no figure: the machine was not its own (the encoder alone took {quick:.0f} and {slow:.0f} s)",
                ">= .85",
            ),
            ("the same again, unchanged", f"{rate['times_faster_unchanged']:.0f} times faster", ">= 50"),
        ]
    if "memory" in result:
        sizes = sorted(result["memory"]["sizes"].values(), key=lambda one: one["passages"])
        measured = ", ".join(f"{one['peak_mb']:.0f} MB at {one['passages']:,} passages" for one in sizes)
        rows.append(("peak memory of an ingest", measured, "flat"))
    for name in ("docs_raw_mix", "docs_postgresql15"):
        if name in result:
            one = result[name]
            measured = f"{one['documents']} documents, {one['passages']:,} passages; {one['words_lost']} words lost or cut in two"
            rows.append((f"{name}: {one['files_found']} files, {one['words']:,} words", measured, "no loss"))
    if "filters" in result:
        found = result["filters"]
        kinds = found["by_filter"].values()
        slowest, least = max(one["p95_ms"] for one in kinds), min(one["found"] for one in kinds)
        what = f"{len(kinds) - 1} filtered searches of {found['passages']:,} passages, a tenant's among them"
        measured = f"p95 at most {slowest:.0f} ms, unfiltered {found['by_filter']['none']['p95_ms']:.0f} ms"
        rows.append((what, f"{measured}; at least {least:.0%} of the true {found['k']} best found", ""))
    return rows


def retrieval_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/retrieval.py; a part that was not run has no row."""
    rows = []
    quality = result.get("quality", {"sets": {}})
    for name, found in quality["sets"].items():
        rows.append((f"nDCG@10, {name}, {found['n']} questions", _ndcg(found["rows"]), ""))
    if "mean" in quality:
        target = "ours above every peer by .02, significantly below none on any set"
        rows.insert(0, (f"nDCG@10, mean of {len(quality['sets'])} sets", _ndcg(quality["mean"]), target))
    if "evidence" in result:
        rows += _abstention(result["evidence"])
    if "latency" in result:
        for size, found in result["latency"]["sizes"].items():
            hybrid = found["hybrid"]
            rows.append(
                (
                    f"hybrid query of {int(size):,} passages, without its embedding",
                    f"p50 {hybrid['p50_ms']:.1f}, p95 {hybrid['p95_ms']:.1f} ms (load average {result['latency']['load_average']:.0f})",
                    "p95 < 50 ms at 50,000",
                )
            )
    return rows


def _abstention(evidence: dict[str, Any]) -> list[tuple[str, str, str]]:
    kept = evidence["kept"]
    answers = evidence["answers_squad2"]
    without, abstaining = (answers["answerable"][how]["right"] for how in ("without", "with"))
    strangers, unanswerable = (answers[group]["with"]["refused"] for group in ("strangers", "unanswerable"))
    return [
        (
            f"questions for which passages suffice (threshold {evidence['threshold']:g})",
            f"{_percent(kept['own'])} of those over their own documents, {_percent(kept['strangers'])} of those over"
            f" others, {_percent(kept['unanswerable'])} of SQuAD2's unanswerable ones",
            "",
        ),
        (
            f"answers of {answers['model']} with `abstain`, {without['n']} questions a group",
            f"{_percent(abstaining)} right ({_percent(without)} without); refused: {_percent(strangers)} over other"
            f" documents, {_percent(unanswerable)} of SQuAD2's unanswerable ones",
            "",
        ),
    ]


def _ndcg(rows: dict[str, Any]) -> str:
    return "; ".join(
        f"{row} {one['ndcg@10']['value']:.3f}" + _against_ours(one.get("ours_minus")) for row, one in rows.items()
    )


def _against_ours(difference: dict[str, float] | None) -> str:
    if difference is None:
        return ""
    return f" (ours {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}])"


def serve_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/serve.py; the bound of the same run stands in the target's column."""
    bound = result["static_batch"]["tokens_per_s"]
    rows = []
    for engine, found in result["engines"].items():
        for one in found["load"]:
            n, ttft, itl = one["streams"], one["ttft_s"], one["itl_s"]
            measured = (
                f"{one['tokens_per_s']:.0f} tok/s; TTFT p50 {1e3 * ttft['p50']:.0f}, p95 {1e3 * ttft['p95']:.0f} ms"
            )
            measured += f"; ITL p50 {1e3 * itl['p50']:.0f}, p95 {1e3 * itl['p95']:.0f} ms"
            rows.append(
                (
                    f"{engine}, {n} streams, {one['requests']} requests",
                    measured,
                    f">= .9 x {bound:.0f}" if n == 16 else "",
                )
            )
        health = max(one["health_s"]["max"] for one in found["load"] if one["health_s"])
        rows.append((f"{engine}: slowest /health meanwhile", f"{1e3 * health:.0f} ms", "< 100 ms"))
        many = found["sixty_four"]
        measured = f"{many['ended']} ended, {many['anothers_number']} with another's number"
        rows.append((f"{engine}: 64 streams at once", measured, "64, 0"))
    if "adapters" in result:
        mixed = result["adapters"]
        what = f"{mixed['adapters']} adapters mixed, {mixed['streams']} streams, against the base model alone"
        rows.append((what, _shares(list(zip(mixed["base_only"], mixed["mixed"], strict=True))), ">= .8"))
    if "vllm" in result:
        pairs: dict[int, list[tuple[Any, Any]]] = {}
        for raw, ours in zip(result["vllm"]["raw"], result["vllm"]["through_ours"], strict=True):
            pairs.setdefault(raw["streams"], []).append((raw, ours))
        for streams, runs in pairs.items():
            later = median(1e3 * (ours["ttft_s"]["p50"] - raw["ttft_s"]["p50"]) for raw, ours in runs)
            rate = median(raw["tokens_per_s"] for raw, _ in runs)
            what = f"through our server, against raw vLLM's {rate:.0f} tok/s at {streams} streams"
            measured = f"{_shares(runs)}; TTFT p50 {later:+.0f} ms"
            rows.append((what, measured, ">= .98; <= 5 ms" if streams == 32 else ""))
    if "rag" in result:
        added = result["rag"]["added_s"]
        rows.append(("retrieval adds, p50, beyond its longer prompt", f"{1e3 * added['p50']:.0f} ms", "<= 30 ms"))
    return rows


def _shares(pairs: Sequence[tuple[Any, Any]]) -> str:
    """The second's tokens a second as shares of the first's."""
    shares = sorted(second["tokens_per_s"] / first["tokens_per_s"] for first, second in pairs)
    return f"{median(shares):.2f} (median of {len(shares)} pairs, {shares[0]:.2f} to {shares[-1]:.2f})"


def tuning_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of the parts of benchmarks/tuning.py that were run."""
    rows = []
    for threads, found in sorted(result.get("lora", {}).items()):
        plain = found["plain"]
        what = f"LoRA, {found['rows']} rows of BANKING77, threads: {threads}"
        rows.append((f"{what}: a plain PEFT loop", f"{_rate(plain)}; right: {_percent(plain['accuracy'])}", ""))
        for name, who, target in (
            ("alike", "ours, with its 8 rows a step", ">= 2.5 times"),
            ("ours", "ours, by default: 4 rows a step", ""),
            ("trl", "TRL's SFTTrainer, defaults", ""),
        ):
            if name not in found:
                continue
            times = found[name]["tokens_per_s"] / plain["tokens_per_s"]
            measured = f"{times:.2f} times ({_rate(found[name])}); right: {_percent(found[name]['accuracy'])}"
            rows.append((f"... {who}, same rows", measured, target))
    if found := result.get("speed"):
        measured = f"{found['speedup_alike']:.2f} times its {found['tokens_per_s_p50']['plain']:.0f} tok/s"
        measured += f" with its 8 rows a step, {found['speedup']:.2f} times with our 4"
        rows.append((f"LoRA steps in turn with the plain loop's, {found['threads']} threads", measured, ">= 2.5 times"))
    heads = sorted((int(n), found) for n, found in result.get("head", {}).items() if n.isdigit())
    for n, found in heads:
        target = ">= .930 in 60 s" if n == heads[-1][0] else ""
        rows.append((f"BANKING77, frozen head on {n:,} rows", _right_in(found), target))
    if found := result.get("unfreeze"):
        rows.append((f"BANKING77, gradual unfreezing, {found['rows']:,} rows", _right_in(found), ">= .940"))
    if found := result.get("half_hour"):
        rows.append(("BANKING77, LoRA on all rows for half an hour", _right_in(found), ""))
    for method, sizes in result.get("curve", {}).items():
        if method in ("head", "lora"):
            measured = "; ".join(f"{int(n):,}: {_percent(found['accuracy'])}" for n, found in sizes.items())
            rows.append((f"BANKING77, {method} by rows", measured, ""))
    for name, found in result.get("scores", {}).items():
        what = f"{name}, LoRA on {found['rows']} rows, answers word for word before -> after"
        rows.append((what, f"{_percent(found['exact_before'])} -> {_percent(found['exact_after'])}", ""))
    return rows


def estimate_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target) of benchmarks/estimate.py."""
    errors = f"median {100 * result['median_error']:.0f} %, worst {100 * result['worst_error']:.0f} %"
    within = f"{result['within_target']} of {result['n']} within 20 %"
    return [(f"peak memory foretold, off by ({result['n']} runs)", f"{errors}; {within}", "all within 20 %")]


def _rate(found: dict[str, Any]) -> str:
    return f"{found['tokens_per_s']:.0f} tok/s"


def _right_in(found: dict[str, Any]) -> str:
    return f"{_percent(found['accuracy'])} in {found['wall_s']:.0f} s"


def section() -> str:
    """The section between the markers: a table a result file that is there."""
    parts = ["## Figures", "", "Raw: `benchmarks/results/`; made by `python -m benchmarks.table`. Intervals are 95 %."]
    for name, title, rows in (
        ("demo", "What a newcomer pays (`benchmarks/demo.py`)", demo_rows),
        (
            "verdicts",
            "The verdict on simulated use cases with known truth (`benchmarks/verdicts.py`)",
            verdict_rows,
        ),
        (
            "advise",
            "The advisor's pick on real data, asked on held-out items (`benchmarks/advise.py`, starter model)",
            advise_rows,
        ),
        ("tuning", "Tuning (`benchmarks/tuning.py`; starter model, heads on all-minilm-l6-v2)", tuning_rows),
        (
            "estimate",
            "`tunefork estimate` against runs on a CPU (`benchmarks/estimate.py`, starter model)",
            estimate_rows,
        ),
        ("serve", "The server under load (`benchmarks/serve.py`, starter model, client on the same cores)", serve_rows),
        (
            "retrieval",
            "Passages found (`benchmarks/retrieval.py`, all-minilm-l6-v2; every row in the same run)",
            retrieval_rows,
        ),
        ("ingest", "Documents into an index (`benchmarks/ingest.py`, all-minilm-l6-v2)", ingest_rows),
    ):
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            table = "\n".join(f"| {what} | {measured} | {target} |" for what, measured, target in rows(result))
            parts += ["", f"| {title} | measured | target |", "|---|---|---|", table]
    return "\n".join([BEGIN, *parts, END])


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, re.S)
    assert found is not None, f"README.md has lost its {BEGIN} ... {END}"
    readme.write_text(text[: found.start()] + section() + text[found.end() :], encoding="utf-8")


def _percent(value: dict[str, float]) -> str:
    return f"{100 * value['value']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _points(value: dict[str, float]) -> str:
    return f"{value['value']:.2f} points [{value['low']:.2f}, {value['high']:.2f}]"


def _plain(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    main()

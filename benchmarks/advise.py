"""Is the advisor's pick right on real data? It picks from few items and pilots; then every remedy is built and asked.

    python -m benchmarks.advise --data FOLDER [--quick] [--only NAME ...] [--home FOLDER]

FOLDER holds the public sets; benchmarks/use_cases.py says where each is published and how its files are named.

For each use case: `advise` measures the arms on at most 100 items, with its pilots, and picks. Then every remedy that
the data supports is built as `tunefork build` builds it, on all drawn training rows, and asked the held-out items
through the server's own catalog. The pick is right when it is the best arm on those, or within delta (5 points) of it;
`base`, `none` and `undecided` ship the base model and are held to the same.

--quick asks fewer items, of one use case a route (20 minutes on 2 cores); --only names others. Each step is kept in
--home as it ends, and a re-run goes on from there; the answers and trainings inside a step are resumed too. After each
step benchmarks/results/advise.json is written anew from all that was measured, with the use cases that were not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.use_cases import USE_CASES, Files, UseCaseSpec, named, write_use_case
from core.cli import _quiet_dependencies
from core.files import read_json, write_json
from core.progress import say
from core.stats import paired_difference, wilson
from core.workspace import UseCaseFolder, Workspace

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "advise.json"
DELTA = 0.05
ADVISED = ("prompt", "few_shot", "oracle", "retrieved", "tune", "tune_retrieved")
"""Families the advisor measures beside `closed`: all that have a remedy, and the oracle. Those the data lacks are absent."""


@dataclass(frozen=True)
class Form:
    name: str
    items: int
    held_out: int
    train: int
    corpus: int | None
    lora_s: float
    """Longest training of an adapter that is built (the advisor's pilots have their own limit)."""
    use_cases: tuple[str, ...]


QUICK = Form("quick", 40, 40, 400, 500, 120.0, ("xquad-en", "pubmedqa", "banking77", "gsm8k"))
FULL = Form("full", 100, 150, 1000, None, 400.0, tuple(spec.name for spec in USE_CASES))


def measure(spec: UseCaseSpec, form: Form, data: Path, home: Path, after_step: Callable[[], None]) -> None:
    """Every step of one use case that is not in `home` yet: the advice, then arm by arm build and held-out answers."""
    from advisor.advise import advise
    from advisor.build import build
    from tuning.recipe import LoraRecipe

    steps = home / "steps" / spec.name
    files = write_use_case(
        spec, data, home / "data" / spec.name, form.items, form.held_out, form.train, form.corpus, seed=0
    )
    workspace = Workspace(home / "workspace")
    _share_models(workspace)
    docs = () if files.corpus is None else (files.corpus,)
    given = {**spec.settings, "eval": files.eval, "train": files.train, "docs": docs, "delta": DELTA}
    folder, settings = workspace.declare(spec.name, given)

    def advice() -> dict[str, Any]:
        found = advise(folder, settings, workspace, wanted=ADVISED)
        return {
            "verdict": found.verdict.to_json(),
            "absent": [absent._asdict() for absent in found.plan.absent],
            "files": {"drawn": files.sizes, "of": files.of},
            "scorer": found.materials.scorer.name,
            "labels": found.materials.labels is not None,
            "format_line": bool(found.bench.answer_format),
            "sequential": found.extras.get("sequential"),
            "pilots": {arm: pilot.train_s for arm, pilot in found.bench.pilots.items()},
        }

    def arm(route: str, method: Any) -> dict[str, Any]:
        started = time.monotonic()
        build(folder, settings, workspace, route, method=method, recipe=LoraRecipe(max_seconds=form.lora_s))
        built = time.monotonic()
        return {
            "build_s": round(built - started, 1),
            "training": _training(folder, route),
            **_ask(workspace, folder, files),
        }

    advised = _step(steps / "advise.json", form, advice, after_step)
    for name, route, method in remedies(files, advised):
        _step(steps / f"{name.replace(':', '-')}.json", form, partial(arm, route, method), after_step)


def remedies(files: Files, advised: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """(arm, route, method) of every remedy that the use case's data supports."""
    found: list[tuple[str, str, str | None]] = [("base", "base", None)]
    if advised["format_line"]:
        found.append(("prompt", "prompt", None))
    found.append(("few-shot", "few-shot", None))
    if files.corpus is not None:
        found.append(("rag", "rag", None))
    if advised["labels"]:
        found.append(("tune:head", "tune", "head"))
    found.append(("tune:lora", "tune", "lora"))
    if files.corpus is not None:
        found.append(("rag+tune", "rag+tune", "lora"))
    return found


def _ask(workspace: Workspace, folder: UseCaseFolder, files: Files) -> dict[str, Any]:
    """The held-out items, answered by what was just built as the server would serve it."""
    from advisor.materials import gather
    from advisor.scoring import outcome
    from core.engines.open import open_engine
    from core.errors import EngineError
    from core.progress import progress
    from core.rows import read_rows
    from core.types import Request, Sampling
    from serve.catalog import Catalog

    materials = gather(folder.settings())
    rows = read_rows(files.held_out, "evaluation")
    catalog = Catalog(workspace, lambda model: open_engine(model, workspace))
    try:
        with catalog.lease(folder.name) as served, progress("held-out items", len(rows)) as advance:
            requests = [Request(row.messages, Sampling(served.max_tokens, seed=0)) for row in rows]
            results = served.engine.complete(requests, on_done=lambda _i, _r: advance(1))
    finally:
        catalog.close()
    outcomes: dict[str, str] = {}
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, EngineError):
            outcomes[row.id] = "error"
        else:
            scored = outcome(result.text, row, materials.scorer, materials.form, result.finish_reason)
            outcomes[row.id] = str(scored.outcome)
    return {"outcomes": outcomes}


def _training(folder: UseCaseFolder, route: str) -> dict[str, Any] | None:
    """How far the adapter or head in force was trained; None where the route has none."""
    version = folder.adapters.active() if "tune" in route else None
    if version is None:
        return None
    origin = read_json(version / "origin.json")
    keep = ("steps", "planned_steps", "stopped", "dev_exact", "tokens_per_s")
    return {"rows": origin["data"]["rows"], **{key: value for key, value in origin["scores"].items() if key in keep}}


def _step(path: Path, form: Form, work: Callable[[], dict[str, Any]], after: Callable[[], None]) -> dict[str, Any]:
    """What `work` found, from `path` where it is known."""
    if path.exists():
        return dict(read_json(path))
    say(f"\n== {path.parent.name}: {path.stem} ({form.name} form)")
    wall, cpu = time.monotonic(), _cpu_s()
    found = work()
    took = {"wall_s": round(time.monotonic() - wall, 1), "cpu_s": round(_cpu_s() - cpu, 1)}
    write_json(path, {**found, **took, "made": _made()})
    after()
    return found


def use_case_result(spec: UseCaseSpec, form: Form, steps: Path) -> dict[str, Any] | None:
    """What the steps of one use case say; None before its advice. Without every arm it is not `complete`."""
    if not (steps / "advise.json").exists():
        return None
    advised = read_json(steps / "advise.json")
    verdict = advised["verdict"]
    corpus = Path() if "corpus" in advised["files"]["drawn"] else None
    wanted = [name for name, _, _ in remedies(Files(Path(), Path(), Path(), corpus, {}, {}), advised)]
    known = {name: read_json(path) for name in wanted if (path := steps / f"{name.replace(':', '-')}.json").exists()}
    right = {name: _right(found["outcomes"]) for name, found in known.items()}
    arms = {
        name: {
            **asdict(wilson(sum(right[name].values()), len(right[name]))),
            "errors": sum(o == "error" for o in found["outcomes"].values()),
            "build_s": found["build_s"],
            "training": found.get("training"),
        }
        for name, found in known.items()
    }
    every = [advised, *known.values()]
    result: dict[str, Any] = {
        "use_case": spec.name,
        "chosen_for": spec.chosen_for,
        "form": form.name,
        "drawn": advised["files"]["drawn"],
        "of": advised["files"]["of"],
        "scorer": advised["scorer"],
        "complete": len(known) == len(wanted),
        "missing_arms": [name for name in wanted if name not in known],
        "route": verdict["route"],
        "method": verdict["method"],
        "confidence": verdict["confidence"],
        "reasons": verdict["reasons"],
        "needs": verdict["needs"],
        "advised": {name: {key: a[key] for key in ("n", "correct", "rate")} for name, a in verdict["arms"].items()},
        "absent": advised["absent"],
        "calls": {key: (advised.get("sequential") or {}).get(key) for key in ("calls", "full_calls", "stopped_by")},
        "held_out": arms,
        "wall_s": round(sum(step["wall_s"] for step in every), 1),
        "cpu_s": round(sum(step["cpu_s"] for step in every), 1),
        "made": advised["made"],
    }
    pick = picked(verdict)
    if result["complete"] and pick in right:
        result |= compare_pick(pick, right, verdict)
    return result


def picked(verdict: Mapping[str, Any]) -> str:
    """The built arm that the verdict ships."""
    route = str(verdict["route"])
    if route in ("base", "none", "undecided"):
        return "base"
    return f"tune:{verdict['method']}" if route == "tune" else route


def compare_pick(pick: str, right: Mapping[str, Mapping[str, bool]], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The pick against the best arm on the held-out items, and why it falls short where it does."""
    rates = {name: sum(found.values()) / len(found) for name, found in right.items()}
    best = max(rates, key=lambda name: (rates[name], name == pick))
    items = [item for item in right[pick] if item in right[best]]
    behind = paired_difference([right[best][i] for i in items], [right[pick][i] for i in items])
    within = behind.value <= DELTA + 1e-9
    out: dict[str, Any] = {"pick": pick, "best": best, "behind": asdict(behind), "within_delta": within}
    if not within:
        out["why"] = _why(pick, best, rates, verdict)
    return out


def _why(pick: str, best: str, rates: Mapping[str, float], verdict: Mapping[str, Any]) -> str:
    """What the advisor had seen of the best arm when it did not pick it."""
    families = {"base": "closed", "few-shot": "few_shot", "rag": "retrieved", "rag+tune": "tune_retrieved"}
    wanted = families.get(best, best)
    arms = [arm for name, arm in verdict["arms"].items() if name == wanted or name.startswith(f"{wanted}:")]
    seen = max((arm for arm in arms if arm["rate"] is not None), key=lambda arm: arm["rate"], default=None)
    base = verdict["arms"]["closed"]
    parts = []
    if verdict["route"] == "undecided":
        asks = "; ".join(need["what"] + ("" if need["n"] is None else f" ({need['n']})") for need in verdict["needs"])
        parts.append(f"undecided on {base['n']} items" + (f", asking for {asks}" if asks else ""))
    if seen is None:
        parts.append(f"it measured no {wanted} arm")
    else:
        parts.append(
            f"its {wanted} arm stood at {seen['rate']:.0%} of {seen['n']} items (base {base['rate']:.0%} of {base['n']});"
            f" built in full and held out, {best} has {rates[best]:.0%} against {rates[pick]:.0%}"
        )
    return "; ".join(parts)


def write_results(homes: Mapping[str, tuple[Form, Path]], results: Path = RESULTS) -> dict[str, Any]:
    """advise.json anew from every step that is kept; a use case measured in full shows that form.

    What an earlier run on another machine measured stays where this one has not measured it.
    """
    kept = {row["use_case"]: row for row in read_json(results)["use_cases"]} if results.exists() else {}
    for form, home in homes.values():  # quick first, so that the full form replaces it
        for spec in USE_CASES:
            found = use_case_result(spec, form, home / "steps" / spec.name)
            better = found is not None and (found["complete"] or not kept.get(spec.name, {}).get("complete"))
            if found is not None and better:
                kept[spec.name] = found
    rows = [kept[spec.name] for spec in USE_CASES if spec.name in kept]
    judged = [row for row in rows if "within_delta" in row]
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "delta": DELTA,
        "base_model": "smollm2-135m-instruct",
        "forms": {form.name: asdict(form) for form, _ in homes.values()},
        "judged": len(judged),
        "right": sum(row["within_delta"] for row in judged),
        "right_undecided": sum(row["within_delta"] and row["route"] == "undecided" for row in judged),
        "not_run": [spec.name for spec in USE_CASES if spec.name not in kept],
        "not_finished": [row["use_case"] for row in rows if not row["complete"]],
        "cpu_hours": round(sum(row["cpu_s"] for row in rows) / 3600, 2),
        "use_cases": rows,
    }
    write_json(results, document)
    return document


def _right(outcomes: Mapping[str, str]) -> dict[str, bool]:
    return {item: outcome == "correct" for item, outcome in outcomes.items() if outcome != "error"}


def _share_models(workspace: Workspace) -> None:
    """Use the starter models that the tests have converted, where they have."""
    models = ROOT / ".cache" / "models"
    if models.is_dir() and not workspace.models.exists():
        workspace.path.mkdir(parents=True, exist_ok=True)
        workspace.models.symlink_to(models)


def _cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _made() -> dict[str, Any]:
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
        **{name: version(name) for name in ("tunefork", "torch", "transformers", "peft")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public sets")
    parser.add_argument("--home", type=Path, default=ROOT / ".cache" / "advise-benchmark", help="where steps are kept")
    parser.add_argument("--quick", action="store_true", help="40 items, one use case a route")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this use case; repeatable")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"--data {args.data}: no such folder; benchmarks/use_cases.py says what it should hold")
    _quiet_dependencies()
    homes = {form.name: (form, args.home / form.name) for form in (QUICK, FULL)}
    form, home = homes["quick" if args.quick else "full"]

    def after_step() -> None:
        write_results(homes)

    for spec in named(args.only or form.use_cases):
        measure(spec, form, args.data, home, after_step)
    print(json.dumps(write_results(homes)))


if __name__ == "__main__":
    main()

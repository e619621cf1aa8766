"""`tunefork build`: turn the verdict in force into the artifacts and the remedy file that the server serves from."""

from __future__ import annotations

import shutil
from typing import Any

from advisor.arm_names import family
from advisor.few_shot import demonstrations
from advisor.materials import gather
from advisor.pilots import HEAD_ROWS, head_pilot
from advisor.plan import FEW_SHOT_K
from core.errors import ConfigError
from core.files import read_json
from core.jobs import job
from core.remedy import Remedy, save_remedy
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace


def build(folder: UseCaseFolder, settings: UseCase, workspace: Workspace, route: str | None = None) -> Remedy:
    """Build what the verdict says (or `route`, when the user insists) and put it in force.

    Raises:
        ConfigError: there is no verdict yet, or the route needs what the use case does not have.
    """
    verdict = folder.verdict()
    if verdict is None and route is None:
        raise ConfigError(f"use case {folder.name!r} has no verdict yet; run `tunefork advise {folder.name}` first")
    with folder.lock("build"):
        verdict = verdict or {}
        chosen = route or str(verdict["route"])
        run = folder.new_run("build")
        with job(run, {"settings": settings.model_dump(mode="json"), "route": chosen}):
            remedy = _build(folder, settings, workspace, chosen, verdict)
            save_remedy(folder.remedy_path, remedy)
            save_remedy(run / "remedy.json", remedy)
    return remedy


def _build(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, route: str, verdict: dict[str, Any]
) -> Remedy:
    report = _report(folder, verdict)
    index = _index(folder, settings, workspace) if route in ("rag", "rag+tune") else None
    method = _method(settings, route, verdict)
    adapter = _adapter(folder, settings, workspace, method) if method is not None else None
    shots: tuple[tuple[str, str], ...] = ()
    if route == "few-shot":
        shots = _shots(settings, _measured_k(verdict))
    return Remedy(
        use_case=settings.name,
        route=route,  # type: ignore[arg-type]
        method=method,  # type: ignore[arg-type]
        base_model=settings.base_model,
        embedding_model=settings.embedding_model,
        instruction=settings.instruction,
        answer_format=str(report.get("answer_format", "")),
        demonstrations=shots,
        top_k=settings.top_k,
        index_version=index,
        adapter_version=adapter,
        max_tokens=int(report.get("data", {}).get("max_tokens", settings.max_tokens or 256)),
        verdict_run=verdict.get("run"),
    )


def _report(folder: UseCaseFolder, verdict: dict[str, Any]) -> dict[str, Any]:
    """report.json of the run that gave the verdict; {} where the route was named by hand before any run."""
    run = verdict.get("run")
    path = folder.path / "runs" / str(run) / "report.json"
    return dict(read_json(path)) if run and path.exists() else {}


def _index(folder: UseCaseFolder, settings: UseCase, workspace: Workspace) -> str:
    from rag.ingest import ingest

    if not settings.docs:
        raise ConfigError(f"use case {settings.name!r} has no documents to retrieve from; give them with --docs PATH")
    ingest(folder, settings, workspace, settings.docs)
    active = folder.index.active()
    assert active is not None
    return active.name


def _method(settings: UseCase, route: str, verdict: dict[str, Any]) -> str | None:
    if "tune" not in route:
        return None
    if settings.train is None:
        raise ConfigError(f"use case {settings.name!r} has no training rows to tune on; give them with --train FILE")
    return str(verdict.get("method") or "lora")


def _adapter(folder: UseCaseFolder, settings: UseCase, workspace: Workspace, method: str) -> str:
    from core.rows import read_rows
    from tuning.train import train_head, train_lora

    assert settings.train is not None
    rows = read_rows(settings.train, "training")
    with folder.adapters.build() as staging:
        if method == "lora":
            train_lora(staging, settings, workspace, rows, source=settings.train)
        elif len(rows) <= HEAD_ROWS:
            # The pilot saw every row: it is the head that was measured, and there is no better one to train.
            shutil.copytree(head_pilot(folder, settings, workspace, rows).folder, staging, dirs_exist_ok=True)
        else:
            train_head(staging, settings, workspace, rows, source=settings.train)
    version = folder.adapters.newest()
    assert version is not None
    folder.adapters.activate(version)
    return version


def _measured_k(verdict: dict[str, Any]) -> int:
    """How many demonstrations the best measured few-shot arm had."""
    rates = {arm: found["rate"] or 0.0 for arm, found in verdict.get("arms", {}).items() if family(arm) == "few_shot"}
    best = max(rates, key=lambda arm: rates[arm], default=f"few_shot:{FEW_SHOT_K[0]}")
    return int(best.partition(":")[2] or FEW_SHOT_K[0])


def _shots(settings: UseCase, k: int) -> tuple[tuple[str, str], ...]:
    materials = gather(settings)
    if not materials.train:
        raise ConfigError(f"use case {settings.name!r} has no training rows to demonstrate with; give --train FILE")
    chosen = demonstrations(materials.train, k, settings.seed, materials.labels is not None)
    return tuple((shot.input, shot.output) for shot in chosen)

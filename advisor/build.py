"""`tunefork build`: turn the verdict in force into the artifacts and the remedy file that the server serves from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.arm_names import PROMPT, RETRIEVED, Shots, context_of, family, shots_of
from advisor.few_shot import demonstrations, store_examples
from advisor.materials import gather
from advisor.passages import numbered
from advisor.pilots import HEAD_ROWS, head_pilot, head_recipe
from advisor.plan import FEW_SHOT_K
from core.errors import ConfigError
from core.files import read_json
from core.jobs import job
from core.prompts import grounded
from core.remedy import Method, Remedy, save_remedy
from core.rows import Row, read_rows
from core.search_settings import Place
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace

if TYPE_CHECKING:
    from tuning.recipe import LoraRecipe


def build(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    route: str | None = None,
    *,
    method: Method | None = None,
    recipe: LoraRecipe | None = None,
) -> Remedy:
    """Build what the verdict says (or `route`, when the user insists) and put it in force.

    Args:
        method: what to tune, when the user insists; None: the verdict's.
        recipe: how to train an adapter; None: the defaults.

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
            remedy = _build(folder, settings, workspace, chosen, verdict, method, recipe)
            save_remedy(folder.remedy_path, remedy)
            save_remedy(run / "remedy.json", remedy)
    return remedy


def _build(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    route: str,
    verdict: dict[str, Any],
    insisted: Method | None,
    recipe: LoraRecipe | None,
) -> Remedy:
    report = _report(folder, verdict)
    index = _index(folder, settings, workspace) if route in ("rag", "rag+tune") else None
    method = _method(settings, route, verdict, insisted)
    adapter = None if method is None else _adapter(folder, settings, workspace, route, method, recipe)
    shots = _shots(folder, settings, workspace, verdict) if route == "few-shot" else {}
    return Remedy(
        use_case=settings.name,
        route=route,  # type: ignore[arg-type]
        method=method,
        base_model=settings.base_model,
        embedding_model=settings.embedding_model,
        instruction=settings.instruction,
        answer_format=str(report.get("answer_format", "")),
        **shots,
        context=_context(route, verdict),
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


def _method(settings: UseCase, route: str, verdict: dict[str, Any], insisted: Method | None) -> Method | None:
    if "tune" not in route:
        return None
    if settings.train is None:
        raise ConfigError(f"use case {settings.name!r} has no training rows to tune on; give them with --train FILE")
    measured: Method | None = verdict.get("method")
    return insisted or measured or "lora"


def _adapter(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    route: str,
    method: Method,
    recipe: LoraRecipe | None,
) -> str:
    from tuning.recipe import FullRecipe
    from tuning.train import train_head, train_lora

    assert settings.train is not None
    rows = read_rows(settings.train, "training")
    with folder.adapters.build() as staging:
        if method != "head":
            # Beside retrieval it is trained WITH passages, as the tune_retrieved arm was: without, it learns to
            # answer from memory, and passages only disturb it.
            trained = _with_passages(folder, settings, workspace, rows) if route == "rag+tune" else rows
            how = FullRecipe(seed=settings.seed) if method == "full" else recipe
            train_lora(staging, settings, workspace, trained, how, source=settings.train)
        elif len(rows) <= HEAD_ROWS:
            # The pilot saw every row: it is the head that was measured, and there is no better one to train.
            shutil.copytree(head_pilot(folder, settings, workspace, rows).folder, staging, dirs_exist_ok=True)
        else:
            train_head(staging, settings, workspace, rows, head_recipe(settings, rows), source=settings.train)
    version = folder.adapters.newest()
    assert version is not None
    folder.adapters.activate(version)
    return version


def _with_passages(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, rows: Sequence[Row]
) -> Sequence[Row]:
    """`rows` as the served remedy will ask them: with what the index in force finds for each."""
    from rag.open import open_retriever

    retriever = open_retriever(folder, settings, workspace)
    try:
        found = retriever.search([row.input for row in rows], settings.top_k)
    finally:
        retriever.close()
    return [
        replace(row, messages=grounded(row.messages, numbered(sources), settings.grounding))
        for row, sources in zip(rows, found, strict=True)
    ]


def _context(route: str, verdict: dict[str, Any]) -> Place | None:
    """Where the context stands: as in the arm that the verdict would ship, else in the best that was measured."""
    of_route = {"prompt": PROMPT, "rag": RETRIEVED}.get(route)
    rates = {arm: found["rate"] or 0.0 for arm, found in verdict.get("arms", {}).items() if family(arm) == of_route}
    best = max(rates, key=lambda arm: rates[arm], default="")
    shipped = verdict.get("route_arm") if verdict.get("route") == route else None
    return context_of(shipped or best)


def _shots(folder: UseCaseFolder, settings: UseCase, workspace: Workspace, verdict: dict[str, Any]) -> dict[str, Any]:
    """The remedy's demonstrations, chosen as in the best measured few-shot arm."""
    materials = gather(settings)
    if not materials.train:
        raise ConfigError(f"use case {settings.name!r} has no training rows to demonstrate with; give --train FILE")
    arms = {arm: found["rate"] or 0.0 for arm, found in verdict.get("arms", {}).items() if shots_of(arm) is not None}
    wanted = shots_of(max(arms, key=lambda arm: arms[arm], default="")) or Shots(FEW_SHOT_K[0], False)
    if wanted.similar:
        version, _ = store_examples(
            folder.demonstrations, materials.train, settings.seed, settings.embedding_model, workspace.models
        )
        return {"demonstrations_version": version, "shots": wanted.k}
    chosen = demonstrations(materials.train, wanted.k, settings.seed, materials.labels is not None)
    return {"demonstrations": tuple((shot.input, shot.output) for shot in chosen)}

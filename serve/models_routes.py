"""/v1/models: every served name, and deleting those that jobs have made."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from core.errors import Locked
from serve.access import caller_of, check_model, may_see
from serve.catalog import Catalog
from serve.embeddings import embedding_models
from serve.errors import ERRORS, ApiError
from serve.served import Entry
from serve.services import services_of
from serve.strict_route import StrictRoute


class ModelInfo(BaseModel):
    """Extension: what stands behind a name."""

    use_case: str | None
    route: str
    base_model: str


class ModelOut(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tunefork"
    tunefork: ModelInfo


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelOut]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


router = APIRouter(prefix="/v1", tags=["models"], route_class=StrictRoute)


@router.get("/models", responses=ERRORS, operation_id="list_models")
def list_models(request: Request) -> ModelList:
    """Use cases, their variants, the base models, and the embedding models."""
    catalog: Catalog = request.app.state.catalog
    caller = caller_of(request)
    served = [_out(entry) for entry in catalog.entries() if may_see(caller, entry.name)]
    embed = [_embedding(catalog, name) for name in embedding_models(request)]
    return ModelList(data=served + embed)


@router.get("/models/{model:path}", responses=ERRORS, operation_id="retrieve_model")
def retrieve_model(request: Request, model: str) -> ModelOut:
    """One served name. Hub ids hold a slash, hence the path."""
    catalog: Catalog = request.app.state.catalog
    if model in embedding_models(request):
        return _embedding(catalog, model)
    check_model(request, model)
    return _out(catalog.entry(model))


def _embedding(catalog: Catalog, name: str) -> ModelOut:
    info = ModelInfo(use_case=None, route="embedding", base_model=name)
    return ModelOut(id=name, created=catalog.opened, tunefork=info)


@router.delete("/models/{model:path}", responses=ERRORS, operation_id="delete_model")
def delete_model(request: Request, model: str) -> ModelDeleted:
    """Delete a model that a fine-tuning job has made. What was declared by hand is deleted by hand (`tunefork delete`)."""
    catalog: Catalog = request.app.state.catalog
    check_model(request, model)
    entry = catalog.entry(model)
    if entry.use_case is None or not services_of(request).fine_tuning.made(entry.use_case) or entry.variant:
        text = f"'{model}' was not made by a fine-tuning job, and cannot be deleted here"
        raise ApiError(400, text, param="model", code="unsupported_value")
    folder = catalog.workspace.use_case(entry.use_case)
    try:
        with folder.lock("advise"), folder.lock("build"), folder.lock("ingest"), folder.lock("tune"):
            catalog.workspace.delete(entry.use_case)
    except Locked as exc:
        raise ApiError(409, f"'{model}' is being worked on", param="model", code="already_running") from exc
    catalog.entries()  # lets go of what it had open
    return ModelDeleted(id=model)


def _out(entry: Entry) -> ModelOut:
    info = ModelInfo(use_case=entry.use_case, route=entry.route, base_model=entry.public_base_model)
    return ModelOut(id=entry.name, created=entry.created, tunefork=info)

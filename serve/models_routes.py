"""GET /v1/models and /v1/models/{id}: every served name."""

from __future__ import annotations

from fastapi import APIRouter, Request

from serve.catalog import Catalog, Entry
from serve.errors import ERRORS
from serve.schemas import ModelInfo, ModelList, ModelOut

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", responses=ERRORS, operation_id="list_models")
def list_models(request: Request) -> ModelList:
    """Use cases, their variants and the base models."""
    catalog: Catalog = request.app.state.catalog
    return ModelList(data=[_out(entry) for entry in catalog.entries()])


@router.get("/models/{model:path}", responses=ERRORS, operation_id="retrieve_model")
def retrieve_model(request: Request, model: str) -> ModelOut:
    """One served name. Hub ids hold a slash, hence the path."""
    catalog: Catalog = request.app.state.catalog
    return _out(catalog.entry(model))


def _out(entry: Entry) -> ModelOut:
    info = ModelInfo(use_case=entry.use_case, route=entry.route, base_model=entry.public_base_model)
    return ModelOut(id=entry.name, created=entry.created, tunefork=info)

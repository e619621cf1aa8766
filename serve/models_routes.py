"""GET /v1/models and /v1/models/{id}: every served name."""

from __future__ import annotations

from fastapi import APIRouter, Request

from serve.access import caller_of, check_model, may_see
from serve.catalog import Catalog, Entry
from serve.embeddings import embedding_models
from serve.errors import ERRORS
from serve.schemas import ModelInfo, ModelList, ModelOut

router = APIRouter(prefix="/v1", tags=["models"])


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


def _out(entry: Entry) -> ModelOut:
    info = ModelInfo(use_case=entry.use_case, route=entry.route, base_model=entry.public_base_model)
    return ModelOut(id=entry.name, created=entry.created, tunefork=info)

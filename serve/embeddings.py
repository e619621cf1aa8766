"""POST /v1/embeddings: the sentence encoders that the use cases' indexes are made with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from core.errors import ArtifactError, TuneforkError
from core.models import remote
from core.settings import DEFAULT_EMBEDDING_MODEL
from serve.access import caller_of, may_see
from serve.answering import RETRY_AFTER_S, nobody_reads
from serve.asked import Asked
from serve.catalog import Catalog
from serve.errors import ERRORS, ApiError, as_api_error, queue_full
from serve.fields import ModelName, Strict, Text, texts_or_ids
from serve.leaving import ClientGone, unless_gone
from serve.metering import meter_of
from serve.served import UnknownModel, public_name
from serve.strict_route import StrictRoute
from serve.workers import Give, QueueFull, Work, Workers

MAX_INPUTS = 2048
"""Texts in one request, as at OpenAI."""

Input = str | list[int]


def _inputs(value: Any) -> list[Input]:
    inputs = texts_or_ids(value, MAX_INPUTS, "inputs")
    if "" in inputs:
        raise PydanticCustomError("value_error", "must not hold an empty string")
    return inputs


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
Inputs = Annotated[
    Any,
    BeforeValidator(_inputs),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}, _IDS, {"type": "array", "items": _IDS}]}
    ),
]


class EmbeddingRequest(Strict):
    """The body of POST /v1/embeddings."""

    model: ModelName
    input: Inputs
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Text | None = None


class EmbeddingOut(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or their 32-bit little-endian floats in base64."""


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: EmbeddingUsage


class Embedded(NamedTuple):
    vectors: NDArray[np.float32]
    tokens: int


router = APIRouter(prefix="/v1", tags=["embeddings"], route_class=StrictRoute)


@router.post(
    "/embeddings",
    response_model=None,
    responses={200: {"model": EmbeddingResponse}, **ERRORS},
    operation_id="create_embedding",
)
async def create_embedding(request: Request, body: EmbeddingRequest) -> Response:
    """Unit vectors of texts as they are: a prefix that a model wants for queries or passages is the client's to add."""
    catalog: Catalog = request.app.state.catalog
    workers: Workers = request.app.state.workers
    model = _known(request, body.model)

    def embed(give: Give[Embedded]) -> None:
        give(_embedded(model, catalog.workspace.models, body))

    try:
        work = workers.start([embed])
    except QueueFull:
        raise queue_full(RETRY_AFTER_S) from None
    try:
        async with unless_gone(request.receive):
            made = await _only(work)
    except ClientGone:
        return nobody_reads()
    except Exception as exc:
        raise as_api_error(exc, body.model, {"messages": "input"}) from exc
    finally:
        work.cancel()
    meter = meter_of(request)
    meter.model, meter.asked = body.model, Asked(base_model=public_name(model), engine="encoder")
    meter.used(made.tokens)
    data = [
        EmbeddingOut(index=index, embedding=_encoded(vector, body.encoding_format))
        for index, vector in enumerate(made.vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=made.tokens, total_tokens=made.tokens)
    return JSONResponse(EmbeddingResponse(data=data, model=body.model, usage=usage).model_dump(mode="json"))


async def _only(work: Work[Embedded]) -> Embedded:
    async for _, made in work.pieces():
        return made
    raise AssertionError("a body that ends without a piece ends with an error")


def embedding_models(request: Request) -> dict[str, str]:
    """Embedding models on this machine by their served names: the default one, and those of the use cases.

    A key that is limited to some use cases sees none of them.
    """
    catalog: Catalog = request.app.state.catalog
    caller = caller_of(request)
    found = {DEFAULT_EMBEDDING_MODEL: DEFAULT_EMBEDDING_MODEL}
    for name in catalog.workspace.names():
        try:
            model = catalog.workspace.use_case(name).settings().embedding_model
        except TuneforkError:
            continue  # said where the use case is listed
        if remote(model) is None:
            found.setdefault(public_name(model), model)
    return {name: model for name, model in found.items() if may_see(caller, name)}


def _known(request: Request, name: str) -> str:
    known = embedding_models(request)
    if name not in known:
        raise as_api_error(UnknownModel(name, list(known)))
    return known[name]


def _embedded(model: str, models: Path, body: EmbeddingRequest) -> Embedded:
    """Runs in a worker thread."""
    from rag.embedding import LocalEncoder, load_encoder, unit

    encoder = load_encoder(model, models)
    if not isinstance(encoder, LocalEncoder):
        raise ArtifactError(f"{model}: not an encoder on this machine")
    if body.dimensions is not None and body.dimensions != encoder.dimensions:
        _check_dimensions(body.dimensions, encoder.dimensions, encoder.shortens)
    texts = [text if isinstance(text, str) else _text(encoder, text) for text in body.input]
    counts = [len(spans) for spans in encoder.spans(texts)]
    for index, count in enumerate(counts):
        if count > encoder.reads:
            where = f"input[{index}]" if len(counts) > 1 else "input"
            text = f"'{where}' has {count} tokens; this model reads {encoder.reads}"
            raise ApiError(400, text, param=where, code="context_length_exceeded")
    vectors = encoder.plain(texts)
    if body.dimensions is not None:
        vectors = unit(vectors[:, : body.dimensions])
    return Embedded(vectors, sum(counts) + encoder.special_tokens * len(texts))


def _check_dimensions(wanted: int, has: int, shortens: bool) -> None:
    if wanted > has:
        raise ApiError(400, f"'dimensions' is {wanted}; this model has {has}", param="dimensions", code="invalid_value")
    if not shortens:
        text = f"this model's vectors cannot be shortened: only 'dimensions': {has} is supported"
        raise ApiError(400, text, param="dimensions", code="unsupported_value")


def _text(encoder: Any, ids: list[int]) -> str:
    try:
        return str(encoder.text_of(ids))
    except ValueError as exc:
        raise ApiError(400, f"'input': {exc}", param="input", code="invalid_value") from exc


def _encoded(vector: NDArray[np.float32], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(x) for x in vector]

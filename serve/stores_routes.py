"""/v1/vector_stores: stores, their files and batches, and search."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from core.errors import ConfigError
from serve.access import caller_of, may_see
from serve.errors import ERRORS, ApiError
from serve.listing import Page, Paged, listing, not_found
from serve.services import Services, services_of
from serve.state import Row
from serve.store_schemas import (
    BatchIn,
    BatchOut,
    ContentPage,
    ResultOut,
    ResultPage,
    SearchIn,
    StoreDeleted,
    StoreFileDeleted,
    StoreFileIn,
    StoreFileList,
    StoreFileOut,
    StoreFileUpdate,
    StoreIn,
    StoreList,
    StoreOut,
    StoreUpdate,
    TextOut,
)
from serve.store_search import Result, StoreDocuments
from serve.stores import NewFile, StoreFile, expired
from serve.strict_route import StrictRoute

if TYPE_CHECKING:
    from rag.filters import Filter

router = APIRouter(prefix="/v1", tags=["vector stores"], route_class=StrictRoute)

FileStatus = Annotated[Literal["in_progress", "completed", "failed", "cancelled"] | None, Query()]


@router.post("/vector_stores", responses=ERRORS, operation_id="create_vector_store")
def create_vector_store(request: Request, body: StoreIn) -> StoreOut:
    """A store; its files are indexed in the background."""
    services = services_of(request)
    if caller_of(request).use_cases:
        # It could not see what it had made.
        text = "this key is for some use cases and vector stores only, and cannot create another"
        raise ApiError(403, text, type_="permission_error", code="insufficient_permissions")
    files = _new_files(services, [StoreFileIn(file_id=id) for id in body.file_ids])
    days = body.expires_after.days if body.expires_after is not None else None
    id = services.stores.create(body.name, body.description, body.metadata, days, files)
    return _out(services, _store(request, id))


@router.get("/vector_stores", responses=ERRORS, operation_id="list_vector_stores")
def list_vector_stores(request: Request, page: Paged) -> StoreList:
    """Stores, newest first."""
    services = services_of(request)
    caller = caller_of(request)
    stores = [services.stores.document(row) for row in services.stores.rows() if may_see(caller, row["id"])]
    return StoreList.model_validate(listing(stores, **asdict(page)))


@router.get("/vector_stores/{store_id}", responses=ERRORS, operation_id="retrieve_vector_store")
def retrieve_vector_store(request: Request, store_id: str) -> StoreOut:
    """One store."""
    return _out(services_of(request), _store(request, store_id))


@router.post("/vector_stores/{store_id}", responses=ERRORS, operation_id="modify_vector_store")
def modify_vector_store(request: Request, store_id: str, body: StoreUpdate) -> StoreOut:
    """Change a store's name, metadata or expiry; what is not given stays, and what is given as null goes."""
    services = services_of(request)
    _store(request, store_id)
    changes: dict[str, Any] = {
        "name": body.name or "",
        "metadata": json.dumps(body.metadata or {}),
        "expires_after_days": None if body.expires_after is None else body.expires_after.days,
    }
    given = body.model_fields_set
    services.stores.update(store_id, {c: value for c, value in changes.items() if c.removesuffix("_days") in given})
    return _out(services, _store(request, store_id))


@router.delete("/vector_stores/{store_id}", responses=ERRORS, operation_id="delete_vector_store")
def delete_vector_store(request: Request, store_id: str) -> StoreDeleted:
    """Delete a store and its index; the files stay."""
    services = services_of(request)
    _store(request, store_id)
    services.search.forget(store_id)
    services.stores.delete(store_id)
    return StoreDeleted(id=store_id)


@router.post("/vector_stores/{store_id}/search", responses=ERRORS, operation_id="search_vector_store")
def search_vector_store(request: Request, store_id: str, body: SearchIn) -> ResultPage:
    """Passages that fit a query, best first; `filters` are over the files' attributes."""
    options = body.ranking_options
    found = search_store(
        request, store_id, body.texts(), body.max_num_results, body.filters, options.score_threshold or None
    )
    data = [
        ResultOut(
            file_id=one.file_id,
            filename=one.filename,
            score=one.score,
            attributes=one.attributes,
            content=[TextOut(text=one.text)],
        )
        for one in found
    ]
    return ResultPage(search_query=body.texts(), data=data)


def search_store(
    request: Request,
    store_id: str,
    texts: list[str],
    top_k: int,
    filters: dict[str, Any] | None = None,
    min_score: float | None = None,
) -> list[Result]:
    """What the caller of `request` may find in a store. Takes a while: not for the event loop.

    Raises:
        ApiError: there is no such store for this caller, it has expired, or `filters` are none.
    """
    condition = _searchable(request, store_id, filters)
    return services_of(request).search.search(
        store_id, texts, top_k, filter=condition, tenant=caller_of(request).tenant, min_score=min_score
    )


def store_documents(
    request: Request, store_id: str, filters: dict[str, Any] | None = None, min_score: float | None = None
) -> StoreDocuments:
    """What the caller of `request` may find in a store, for a RagEngine.

    Raises:
        ApiError: as `search_store`.
    """
    condition = _searchable(request, store_id, filters)
    return StoreDocuments(services_of(request).search, store_id, condition, caller_of(request).tenant, min_score)


def _searchable(request: Request, store_id: str, filters: dict[str, Any] | None) -> Filter | None:
    """The filter, once it is certain that the store may be searched with it now."""
    from rag.filters import parse_filter

    if expired(_store(request, store_id)):
        raise ApiError(400, f"the vector store '{store_id}' has expired", param="vector_store_id", code="expired")
    try:
        condition = None if filters is None else parse_filter(filters)
    except ConfigError as exc:
        raise ApiError(400, str(exc).replace("filter", "filters", 1), param="filters", code="invalid_value") from exc
    services_of(request).stores.touch(store_id)
    return condition


@router.post("/vector_stores/{store_id}/files", responses=ERRORS, operation_id="create_vector_store_file")
def create_vector_store_file(request: Request, store_id: str, body: StoreFileIn) -> StoreFileOut:
    """Put a file into a store; it is indexed in the background."""
    services = services_of(request)
    _store(request, store_id)
    services.stores.add(store_id, _new_files(services, [body]))
    return _file_out(_file(services, store_id, body.file_id))


@router.get("/vector_stores/{store_id}/files", responses=ERRORS, operation_id="list_vector_store_files")
def list_vector_store_files(request: Request, store_id: str, page: Paged, filter: FileStatus = None) -> StoreFileList:
    """A store's files, newest first; `filter` is a status."""
    _store(request, store_id)
    return _file_list(services_of(request).stores.files(store_id), filter, page)


@router.get("/vector_stores/{store_id}/files/{file_id}", responses=ERRORS, operation_id="retrieve_vector_store_file")
def retrieve_vector_store_file(request: Request, store_id: str, file_id: str) -> StoreFileOut:
    """One file of a store."""
    _store(request, store_id)
    return _file_out(_file(services_of(request), store_id, file_id))


@router.post("/vector_stores/{store_id}/files/{file_id}", responses=ERRORS, operation_id="update_vector_store_file")
def update_vector_store_file(request: Request, store_id: str, file_id: str, body: StoreFileUpdate) -> StoreFileOut:
    """Set a file's attributes, in force with the next search."""
    services = services_of(request)
    _store(request, store_id)
    _file(services, store_id, file_id)
    services.stores.set_attributes(store_id, file_id, body.attributes or {})
    return _file_out(_file(services, store_id, file_id))


@router.get(
    "/vector_stores/{store_id}/files/{file_id}/content", responses=ERRORS, operation_id="vector_store_file_content"
)
def vector_store_file_content(request: Request, store_id: str, file_id: str) -> ContentPage:
    """The text that was read from a file."""
    services = services_of(request)
    _store(request, store_id)
    _file(services, store_id, file_id)
    return ContentPage(data=[TextOut(text=text) for text in services.search.text(store_id, file_id)])


@router.delete("/vector_stores/{store_id}/files/{file_id}", responses=ERRORS, operation_id="delete_vector_store_file")
def delete_vector_store_file(request: Request, store_id: str, file_id: str) -> StoreFileDeleted:
    """Take a file out of a store: it is not found any more from now on. The file itself stays."""
    services = services_of(request)
    _store(request, store_id)
    if not services.stores.remove(store_id, file_id):
        raise not_found("file", file_id, "file_id")
    return StoreFileDeleted(id=file_id)


@router.post("/vector_stores/{store_id}/file_batches", responses=ERRORS, operation_id="create_vector_store_file_batch")
def create_file_batch(request: Request, store_id: str, body: BatchIn) -> BatchOut:
    """Put several files into a store."""
    services = services_of(request)
    _store(request, store_id)
    id = services.stores.add_batch(store_id, _new_files(services, body.wanted()))
    return _batch(services, store_id, id)


@router.get(
    "/vector_stores/{store_id}/file_batches/{batch_id}",
    responses=ERRORS,
    operation_id="retrieve_vector_store_file_batch",
)
def retrieve_file_batch(request: Request, store_id: str, batch_id: str) -> BatchOut:
    """One batch."""
    _store(request, store_id)
    return _batch(services_of(request), store_id, batch_id)


@router.post(
    "/vector_stores/{store_id}/file_batches/{batch_id}/cancel",
    responses=ERRORS,
    operation_id="cancel_vector_store_file_batch",
)
def cancel_file_batch(request: Request, store_id: str, batch_id: str) -> BatchOut:
    """Leave out the batch's files that are not indexed yet."""
    services = services_of(request)
    _store(request, store_id)
    _batch(services, store_id, batch_id)
    services.stores.cancel_batch(store_id, batch_id)
    return _batch(services, store_id, batch_id)


@router.get(
    "/vector_stores/{store_id}/file_batches/{batch_id}/files",
    responses=ERRORS,
    operation_id="list_vector_store_file_batch_files",
)
def list_file_batch_files(
    request: Request,
    store_id: str,
    batch_id: str,
    page: Paged,
    filter: FileStatus = None,
) -> StoreFileList:
    """The files that a batch brought."""
    services = services_of(request)
    _store(request, store_id)
    _batch(services, store_id, batch_id)
    return _file_list(services.stores.files(store_id, batch_id), filter, page)


def _store(request: Request, id: str) -> Row:
    row = services_of(request).stores.row(id)
    if row is None or not may_see(caller_of(request), id):
        raise not_found("vector store", id, "vector_store_id")
    return row


def _file(services: Services, store: str, id: str) -> StoreFile:
    file = services.stores.file(store, id)
    if file is None:
        raise not_found("file", id, "file_id")
    return file


def _batch(services: Services, store: str, id: str) -> BatchOut:
    batch = services.stores.batch(store, id)
    if batch is None:
        raise not_found("file batch", id, "batch_id")
    return BatchOut.model_validate(batch)


def _new_files(services: Services, wanted: Iterable[StoreFileIn]) -> list[NewFile]:
    files: dict[str, NewFile] = {}
    for one in wanted:
        file = services.files.get(one.file_id)
        if file is None:
            raise not_found("file", one.file_id, "file_id")
        files[one.file_id] = NewFile(file, dict(one.attributes))
    return list(files.values())


def _out(services: Services, row: Row) -> StoreOut:
    return StoreOut.model_validate(services.stores.document(row))


def _file_out(file: StoreFile) -> StoreFileOut:
    return StoreFileOut.model_validate(file.document())


def _file_list(files: list[StoreFile], status: str | None, page: Page) -> StoreFileList:
    documents = [file.document() for file in files if status in (None, file.status)]
    return StoreFileList.model_validate(listing(documents, **asdict(page)))

"""/v1/files: upload, list, get, read, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from serve.errors import ERRORS, ApiError
from serve.files import PURPOSES, EmptyFile, StoredFile
from serve.listing import Cursor, Order, listing, not_found
from serve.services import services_of
from serve.strict_route import StrictRoute

router = APIRouter(prefix="/v1", tags=["files"], route_class=StrictRoute)

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                }
            }
        },
    }
}


class FileOut(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileOut]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post("/files", responses=ERRORS, operation_id="create_file", openapi_extra=_UPLOAD)
async def create_file(request: Request) -> FileOut:
    """Keep a file for `purpose` assistants or user_data (vector stores) or fine-tune."""
    services = services_of(request)
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ApiError(400, "the body must be multipart/form-data", code="invalid_body")
    try:
        form = await request.form(max_files=2, max_fields=16)
    except HTTPException as exc:
        if exc.status_code != 400:
            raise
        raise ApiError(400, f"the body is not multipart/form-data: {exc.detail}", code="invalid_body") from exc
    try:
        file, purpose = _fields(form)
        if file.size is not None and file.size > services.options.max_file_bytes:
            text = f"the file is larger than {services.options.max_file_bytes} bytes"
            raise ApiError(413, text, param="file", code="file_too_large")
        stored = await run_in_threadpool(services.files.add, file.file, file.filename or "file", purpose)
    except EmptyFile:
        raise ApiError(400, "the file is empty", param="file", code="invalid_value") from None
    finally:
        await form.close()
    return _out(stored)


def _fields(form: FormData) -> tuple[UploadFile, Any]:
    for name in form:
        if name not in ("file", "purpose"):
            known = name.partition("[")[0]
            code = "unsupported_parameter" if known == "expires_after" else "unknown_parameter"
            raise ApiError(400, f"'{known[:60]}' is not supported by this server", param=known[:60], code=code)
    if len(form.multi_items()) != len(form):
        raise ApiError(400, "a field is given twice; upload one file at a time", param="file", code="invalid_value")
    for name in ("file", "purpose"):
        if name not in form:
            text = f"the required parameter '{name}' is missing"
            raise ApiError(400, text, param=name, code="missing_required_parameter")
    file, purpose = form["file"], form["purpose"]
    if not isinstance(file, UploadFile):
        raise ApiError(400, "'file' must be a file, with a filename", param="file", code="invalid_type")
    if purpose not in PURPOSES:
        text = f"'purpose' has a value that is not supported; supported: {', '.join(PURPOSES)}"
        raise ApiError(400, text, param="purpose", code="unsupported_value")
    return file, purpose


@router.get("/files", responses=ERRORS, operation_id="list_files")
def list_files(
    request: Request,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: Cursor = None,
) -> FileList:
    """Files, newest first."""
    files = [file.document() for file in services_of(request).files.all(purpose)]
    return FileList.model_validate(listing(files, limit=limit, order=order, after=after))


@router.get("/files/{file_id}", responses=ERRORS, operation_id="retrieve_file")
def retrieve_file(request: Request, file_id: str) -> FileOut:
    """One file."""
    return _out(_found(request, file_id))


@router.get(
    "/files/{file_id}/content", responses=ERRORS, operation_id="download_file", response_class=StreamingResponse
)
def download_file(request: Request, file_id: str) -> StreamingResponse:
    """What was uploaded, byte for byte."""
    file = _found(request, file_id)
    # Never a type that a browser would run.
    headers = {"Content-Length": str(file.bytes), "X-Content-Type-Options": "nosniff"}
    blocks = services_of(request).files.read(file)
    return StreamingResponse(blocks, media_type="application/octet-stream", headers=headers)


@router.delete("/files/{file_id}", responses=ERRORS, operation_id="delete_file")
def delete_file(request: Request, file_id: str) -> FileDeleted:
    """Delete a file, and remove it from every vector store that has it."""
    services = services_of(request)
    if not services.files.delete(file_id):
        raise not_found("file", file_id, "file_id")
    services.stores.forget_file(file_id)
    return FileDeleted(id=file_id)


def _found(request: Request, file_id: str) -> StoredFile:
    file = services_of(request).files.get(file_id)
    if file is None:
        raise not_found("file", file_id, "file_id")
    return file


def _out(file: StoredFile) -> FileOut:
    return FileOut.model_validate(file.document())

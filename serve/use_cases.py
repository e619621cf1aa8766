"""/v1/use_cases: what OpenAI's API has no word for: verdicts, reports, measuring again, and feedback on answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field, model_validator

from core.errors import ArtifactError, UnknownUseCase
from core.files import read_json
from core.remedy import load_remedy
from core.workspace import UseCaseFolder
from serve.access import caller_of, may_see
from serve.errors import ERRORS, ApiError, as_api_error
from serve.fields import Strict, Text, at
from serve.job import Job
from serve.listing import Cursor, Limit, Order, listing, not_found
from serve.services import services_of
from serve.strict_route import StrictRoute

router = APIRouter(prefix="/v1/use_cases", tags=["use cases"], route_class=StrictRoute)

KIND = "advise"


class CanaryOut(BaseModel):
    """What is tried on a share of a use case's requests."""

    arm: str
    share: float
    """0-1."""


class UseCaseOut(BaseModel):
    """One use case: its verdict in short, and what is served for it."""

    id: str
    object: Literal["use_case"] = "use_case"
    description: str
    base_model: str
    verdict: str | None
    """The route of the verdict in force; null before the first `advise`."""
    confidence: float | None
    served: str | None
    """The route that was built; null before the first `build`."""
    method: str | None
    canary: CanaryOut | None
    """What a share of the requests goes to instead."""
    models: list[str]
    """Names to ask for."""


class _Page(BaseModel):
    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class UseCaseList(_Page):
    data: list[UseCaseOut]


class FeedbackIn(Strict):
    """What somebody says of an answer."""

    request_id: Annotated[Text, Field(min_length=1, max_length=128)]
    """The x-request-id of the answer; `_request_id` in the openai client."""
    rating: Literal["good", "bad"] | None = None
    expected: Annotated[Text, Field(min_length=1, max_length=100_000)] | None = None
    """The right answer."""
    comment: Annotated[Text, Field(max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackIn:
        if self.rating is None and self.expected is None:
            raise at("rating", "or 'expected' must be given")
        return self


class FeedbackOut(BaseModel):
    object: Literal["feedback"] = "feedback"
    request_id: str
    stored: Literal[True] = True


class AdviseIn(Strict):
    """How to measure; what is not given is as the use case declares it."""

    from_log: bool = False
    """Measure on the answers that feedback says are right."""
    arms: Annotated[list[Annotated[Text, Field(pattern=r"^[a-z_]+(:[a-z0-9_]+)?$")]], Field(max_length=32)] | None = (
        None
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    target: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    def arguments(self) -> list[str]:
        """As `tunefork advise` takes them."""
        found = ["--from-log"] if self.from_log else []
        found += ["--arms", ",".join(self.arms)] if self.arms else []
        for name in ("delta", "target", "seed"):
            value = getattr(self, name)
            found += [] if value is None else [f"--{name}", str(value)]
        return found


class JobErrorOut(BaseModel):
    code: str
    message: str
    param: str | None = None


class AdviseOut(BaseModel):
    """A job that measures."""

    id: str
    object: Literal["use_case.advise"] = "use_case.advise"
    use_case: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: JobErrorOut | None
    verdict: dict[str, Any] | None


class AdviseList(_Page):
    data: list[AdviseOut]


@router.get("", responses=ERRORS, operation_id="list_use_cases")
def list_use_cases(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    order: Order = "asc",
    after: Cursor = None,
) -> UseCaseList:
    """Use cases by name."""
    workspace, caller = services_of(request).workspace, caller_of(request)
    found = [_out(request, workspace.use_case(name)) for name in workspace.names() if may_see(caller, name)]
    return UseCaseList.model_validate(listing(found, limit=limit, order=order, after=after))


@router.get("/{name}", responses=ERRORS, operation_id="retrieve_use_case")
def retrieve_use_case(request: Request, name: str) -> UseCaseOut:
    """One use case."""
    return _out(request, _folder(request, name))


@router.get("/{name}/verdict", responses=ERRORS, operation_id="retrieve_verdict")
def retrieve_verdict(request: Request, name: str) -> dict[str, Any]:
    """The verdict in force, with its quantities, arms, comparisons and reasons."""
    verdict = _folder(request, name).verdict()
    if verdict is None:
        raise _no_verdict(name)
    return verdict


@router.get(
    "/{name}/report",
    responses={
        200: {
            "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {}},
            "description": "Report.",
        },
        **ERRORS,
    },
    response_class=Response,
    operation_id="retrieve_report",
)
def retrieve_report(request: Request, name: str, format: Literal["json", "html"] = "json") -> Response:
    """The report of the verdict in force, as one JSON document or as a page."""
    folder = _folder(request, name)
    verdict = folder.verdict()
    if verdict is None:
        raise _no_verdict(name)
    path = folder.path / "runs" / Path(str(verdict["run"])).name / f"report.{format}"
    if not path.is_file():
        raise as_api_error(ArtifactError(f"{path}: the report of the verdict in force is gone"), name)
    document = read_json(path.with_suffix(".json"))
    if format == "json":
        return JSONResponse(_without_folders(document))
    page = path.read_text(encoding="utf-8")
    for folders in sorted(_folders(document), key=len, reverse=True):
        page = page.replace(folders, folders.rsplit("/", 1)[-1])
    # It has its own styles and charts, and no script that needs more than itself.
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
    return HTMLResponse(page, headers=headers)


@router.post("/{name}/feedback", responses=ERRORS, operation_id="create_feedback")
def create_feedback(request: Request, name: str, body: FeedbackIn) -> FeedbackOut:
    """What somebody says of an answer; becomes an item of `tunefork advise NAME --from-log` where it says what is right."""
    folder = _folder(request, name)
    services = services_of(request)
    judged = services.log.feedback(folder, body.model_dump())
    if judged is None:
        text = f"no answered request '{body.request_id}' was logged for '{name}'; the log is kept with --log-requests"
        raise ApiError(404, text, param="request_id", code="not_found")
    services.metrics.feedback.labels(name, judged.get("arm", "-"), body.rating or "none").inc()
    return FeedbackOut(request_id=body.request_id)


@router.post("/{name}/advise", responses=ERRORS, operation_id="create_advise_job")
def create_advise_job(request: Request, name: str, body: AdviseIn) -> AdviseOut:
    """Measure the use case's remedies anew, in a process of its own; the verdict goes in force when it is done."""
    _folder(request, name)
    jobs = services_of(request).jobs
    if any(not job.over for job in jobs.of(KIND, name)):
        raise ApiError(409, f"'{name}' is being measured already", param="name", code="already_running")
    return _job_out(jobs.submit(KIND, name, {"arguments": body.arguments()}, "advise-"))


@router.get("/{name}/advise", responses=ERRORS, operation_id="list_advise_jobs")
def list_advise_jobs(request: Request, name: str, limit: Limit = 20, after: Cursor = None) -> AdviseList:
    """The use case's advise jobs, newest first."""
    _folder(request, name)
    jobs = [_job_out(job) for job in reversed(services_of(request).jobs.of(KIND, name))]
    return AdviseList.model_validate(listing(jobs, limit=limit, after=after))


@router.get("/{name}/advise/{job_id}", responses=ERRORS, operation_id="retrieve_advise_job")
def retrieve_advise_job(request: Request, name: str, job_id: str) -> AdviseOut:
    """One advise job; `verdict` is there once it has succeeded."""
    return _job_out(_job(request, name, job_id))


@router.post("/{name}/advise/{job_id}/cancel", responses=ERRORS, operation_id="cancel_advise_job")
def cancel_advise_job(request: Request, name: str, job_id: str) -> AdviseOut:
    """Stop a job; what was answered is kept, and the next job goes on from there."""
    _job(request, name, job_id)
    services_of(request).jobs.cancel(job_id)
    return _job_out(_job(request, name, job_id))


def _folder(request: Request, name: str) -> UseCaseFolder:
    workspace, caller = services_of(request).workspace, caller_of(request)
    names = [one for one in workspace.names() if may_see(caller, one)]
    if name not in names:
        raise ApiError(404, str(UnknownUseCase(name, names)), param="name", code="not_found")
    return workspace.use_case(name)


def _job(request: Request, name: str, id: str) -> Job:
    _folder(request, name)
    job = services_of(request).jobs.get(id, KIND)
    if job is None or job.subject != name:
        raise not_found("advise job", id, "job_id")
    return job


def _out(request: Request, folder: UseCaseFolder) -> UseCaseOut:
    from serve.served import public_name

    settings, verdict, remedy = folder.settings(), folder.verdict() or {}, load_remedy(folder.remedy_path)
    canary = request.app.state.catalog.canary(folder)
    variants = [
        *([":rag"] if folder.index.active() is not None else []),
        *([":tune"] if folder.adapters.active() is not None else []),
        ":base",
        *([] if canary is None else [":canary"]),
    ]
    return UseCaseOut(
        id=folder.name,
        description=settings.description,
        base_model=public_name(settings.base_model),
        verdict=verdict.get("route"),
        confidence=verdict.get("confidence"),
        served=None if remedy is None else remedy.route,
        method=None if remedy is None else remedy.method,
        canary=None if canary is None else CanaryOut(arm=canary.arm, share=canary.share),
        models=[folder.name, *(f"{folder.name}{variant}" for variant in variants)],
    )


def _job_out(job: Job) -> AdviseOut:
    return AdviseOut(
        id=job.id,
        use_case=job.subject,
        status=job.state,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=None if job.error is None else JobErrorOut.model_validate(job.error),
        verdict=job.result,
    )


def _no_verdict(name: str) -> ApiError:
    text = f"'{name}' has no verdict yet; run `tunefork advise {name}`, or post to /v1/use_cases/{name}/advise"
    return ApiError(404, text, param="name", code="not_found")


def _without_folders(value: Any) -> Any:
    """`value` with absolute paths in it cut to their last part: they are of this machine, and no client's business."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return value.rsplit("/", 1)[-1] if _is_path(value) else value


def _folders(value: Any) -> set[str]:
    """The absolute paths in `value`."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return set().union(*(_folders(item) for item in items))
    return {value} if _is_path(value) else set()


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and "\n" not in value and "/" in value[1:]

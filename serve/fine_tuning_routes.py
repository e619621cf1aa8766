"""/v1/fine_tuning/jobs: from a base model and rows, or pairs of answers, to a served name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field, model_validator

from core.models import remote, starter
from serve.access import check_model
from serve.catalog import Catalog
from serve.chat_output import is_none
from serve.errors import ERRORS, ApiError
from serve.fields import Metadata, ModelName, Strict, Text, at, only_empty
from serve.files import StoredFile
from serve.fine_tuning import MAX_SUFFIX, Number
from serve.job import Job
from serve.listing import Cursor, Limit, listing, not_found
from serve.services import Services, services_of
from serve.store_schemas import FileId
from serve.strict_route import StrictRoute

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"], route_class=StrictRoute)


class Hyperparameters(Strict):
    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=100)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = "auto"


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()


class DpoHyperparameters(Hyperparameters):
    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] = "auto"


class Dpo(Strict):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Strict):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None

    @model_validator(mode="after")
    def _of_its_type(self) -> Method:
        for other in {"supervised", "dpo"} - {self.type}:
            if getattr(self, other) is not None:
                raise at(f"method.{other}", f"is given, but the method's type is '{self.type}'")
        return self

    def settled(self) -> Hyperparameters:
        if self.type == "dpo":
            return (self.dpo or Dpo()).hyperparameters
        return (self.supervised or Supervised()).hyperparameters


class JobIn(Strict):
    model: ModelName
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Annotated[Text, Field(min_length=1, max_length=MAX_SUFFIX)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Any], AfterValidator(only_empty), Field(json_schema_extra={"maxItems": 0})] | None = (
        None
    )

    @model_validator(mode="after")
    def _one_of(self) -> JobIn:
        if self.method is not None and self.hyperparameters is not None:
            raise at("hyperparameters", "are given in 'method' already")
        if self.type == "dpo" and self.validation_file is not None:
            raise at("validation_file", "is for the method 'supervised'", "unsupported_value")
        if self.type == "dpo" and find_spec("trl") is None:
            raise at(
                "method.type", "needs an optional dependency this server lacks: tunefork[dpo]", "unsupported_value"
            )
        return self

    @property
    def type(self) -> Literal["supervised", "dpo"]:
        return "supervised" if self.method is None else self.method.type

    def settled(self) -> Hyperparameters:
        return self.hyperparameters or (self.method or Method(type="supervised")).settled()


class JobError(BaseModel):
    code: str
    message: str
    param: str | None = None


class HyperparametersOut(BaseModel):
    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]


class SupervisedOut(BaseModel):
    hyperparameters: HyperparametersOut


class DpoHyperparametersOut(HyperparametersOut):
    beta: float | Literal["auto"]


class DpoOut(BaseModel):
    hyperparameters: DpoHyperparametersOut


class MethodOut(BaseModel):
    type: Literal["supervised", "dpo"]
    supervised: SupervisedOut | None = Field(default=None, exclude_if=is_none)
    dpo: DpoOut | None = Field(default=None, exclude_if=is_none)


class JobOut(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    hyperparameters: HyperparametersOut
    method: MethodOut
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str]


class _Page(BaseModel):
    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class JobList(_Page):
    data: list[JobOut]


class EventOut(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class EventList(_Page):
    data: list[EventOut]


class CheckpointOut(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | None]


class CheckpointList(_Page):
    data: list[CheckpointOut]


@router.post("/jobs", responses=ERRORS, operation_id="create_fine_tuning_job")
def create_job(request: Request, body: JobIn) -> JobOut:
    """Train a LoRA adapter on a base model; once it has succeeded, `fine_tuned_model` is a name to chat with."""
    services = services_of(request)
    settings = body.settled()
    job = services.fine_tuning.create(
        _base_model(request, body.model),
        _file(services, body.training_file, "training_file"),
        None if body.validation_file is None else _file(services, body.validation_file, "validation_file"),
        suffix=body.suffix,
        seed=body.seed,
        epochs=_number(settings.n_epochs),
        batch_size=_number(settings.batch_size),
        learning_rate_multiplier=_number(settings.learning_rate_multiplier),
        metadata=body.metadata,
        method=body.type,
        beta=_number(settings.beta) if isinstance(settings, DpoHyperparameters) else None,
    )
    return _out(services, job)


@router.get("/jobs", responses=ERRORS, operation_id="list_fine_tuning_jobs")
def list_jobs(
    request: Request, limit: Limit = 20, after: Cursor = None, metadata: Literal["null"] | None = None
) -> JobList:
    """Jobs, newest first; `metadata[KEY]=VALUE` lists only those that have it, `metadata=null` those without any."""
    wanted = {name[9:-1]: value for name, value in request.query_params.items() if name.startswith("metadata[")}
    services = services_of(request)
    jobs = [
        services.fine_tuning.document(job)
        for job in services.fine_tuning.all()
        if wanted.items() <= job.spec["metadata"].items() and not (metadata and job.spec["metadata"])
    ]
    return JobList.model_validate(listing(jobs, limit=limit, after=after))


@router.get("/jobs/{job_id}", responses=ERRORS, operation_id="retrieve_fine_tuning_job")
def retrieve_job(request: Request, job_id: str) -> JobOut:
    """One job."""
    return _out(services_of(request), _job(request, job_id))


@router.post("/jobs/{job_id}/cancel", responses=ERRORS, operation_id="cancel_fine_tuning_job")
def cancel_job(request: Request, job_id: str) -> JobOut:
    """Stop a job; one that is over stays as it is."""
    services = services_of(request)
    _job(request, job_id)
    services.fine_tuning.cancel(job_id)
    return _out(services, _job(request, job_id))


@router.get("/jobs/{job_id}/events", responses=ERRORS, operation_id="list_fine_tuning_events")
def list_events(request: Request, job_id: str, limit: Limit = 20, after: Cursor = None) -> EventList:
    """What has happened, newest first."""
    events = services_of(request).fine_tuning.events(_job(request, job_id))
    return EventList.model_validate(listing(events, limit=limit, after=after))


@router.get("/jobs/{job_id}/checkpoints", responses=ERRORS, operation_id="list_fine_tuning_job_checkpoints")
def list_checkpoints(request: Request, job_id: str, limit: Limit = 10, after: Cursor = None) -> CheckpointList:
    """The best weights of a job that succeeded: the only ones that are kept."""
    found = services_of(request).fine_tuning.checkpoints(_job(request, job_id))
    return CheckpointList.model_validate(listing(found, limit=limit, after=after))


def _base_model(request: Request, name: str) -> str:
    """The base model of that served name, as its declaration has it."""
    catalog: Catalog = request.app.state.catalog
    known = starter(name)
    if known is not None:
        return known.name
    entry = catalog.entry(name)
    if entry.use_case is not None:
        check_model(request, name)
        text = f"'{name}' is a use case; name the base model to start from, as in '{entry.public_base_model}'"
        raise ApiError(400, text, param="model", code="unsupported_value")
    if remote(entry.base_model) is not None:
        text = f"the weights of '{name}' are not on this server, so it cannot be tuned here"
        raise ApiError(400, text, param="model", code="unsupported_value")
    return entry.base_model


def _file(services: Services, id: str, param: str) -> StoredFile:
    file = services.files.get(id)
    if file is None:
        raise ApiError(400, f"there is no file '{id}'", param=param, code="invalid_value")
    if file.purpose != "fine-tune":
        text = f"the file '{id}' has the purpose '{file.purpose}'; upload it with 'fine-tune'"
        raise ApiError(400, text, param=param, code="invalid_value")
    return file


def _job(request: Request, id: str) -> Job:
    job = services_of(request).fine_tuning.get(id)
    if job is None:
        raise not_found("fine-tuning job", id, "job_id")
    return job


def _out(services: Services, job: Job) -> JobOut:
    return JobOut.model_validate(services.fine_tuning.document(job))


def _number(value: Any) -> Number:
    return None if value == "auto" else value

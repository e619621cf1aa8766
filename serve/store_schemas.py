"""OpenAI's vector store requests and answers, the part that is honoured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from serve.fields import Metadata, OnlyFalse, Strict, Text, at

MAX_BATCH = 2000


def _number(value: Any) -> Any:
    """Attributes are compared as JavaScript's numbers would be: a larger integer is a float."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) <= 2**53:
        return value
    try:
        return float(value)
    except OverflowError:
        raise PydanticCustomError("value_error", "must be a finite number") from None


AttributeValue = Annotated[
    Annotated[Text, Field(max_length=512)] | bool | int | Annotated[float, Field(allow_inf_nan=False)],
    BeforeValidator(_number),
]
AttributesIn = Annotated[
    dict[Annotated[Text, Field(min_length=1, max_length=64)], AttributeValue], Field(max_length=16)
]
FileId = Annotated[Text, Field(min_length=1, max_length=64)]


class ChunkingIn(Strict):
    """Documents are cut by their structure; sizes cannot be chosen."""

    type: Literal["auto"]


class ExpiresAfter(Strict):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class StoreIn(Strict):
    name: Annotated[Text, Field(max_length=256)] = ""
    description: Annotated[Text, Field(max_length=512)] | None = None
    file_ids: Annotated[list[FileId], Field(max_length=MAX_BATCH)] = Field(default_factory=list)
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingIn | None = None
    metadata: Metadata | None = None


class StoreUpdate(Strict):
    cleared_by_null = frozenset(("name", "expires_after", "metadata"))

    name: Annotated[Text, Field(max_length=256)] | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class StoreFileIn(Strict):
    file_id: FileId
    attributes: AttributesIn = Field(default_factory=dict)
    chunking_strategy: ChunkingIn | None = None


class StoreFileUpdate(Strict):
    cleared_by_null = frozenset(("attributes",))

    attributes: AttributesIn | None


class BatchIn(Strict):
    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=MAX_BATCH)] | None = None
    files: Annotated[list[StoreFileIn], Field(min_length=1, max_length=MAX_BATCH)] | None = None
    attributes: AttributesIn | None = None
    chunking_strategy: ChunkingIn | None = None

    @model_validator(mode="after")
    def _one_of(self) -> BatchIn:
        if (self.file_ids is None) == (self.files is None):
            raise at("file_ids", "or 'files' must be given, and not both")
        if self.files is not None and self.attributes is not None:
            raise at("attributes", "belong to each of 'files'")
        return self

    def wanted(self) -> list[StoreFileIn]:
        """The files, each with its attributes."""
        if self.files is not None:
            return self.files
        return [StoreFileIn(file_id=id, attributes=self.attributes or {}) for id in self.file_ids or ()]


class RankingOptions(Strict):
    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    """Accepted, and the same for all: one ranking, by meaning and words."""
    score_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0


class SearchIn(Strict):
    query: (
        Annotated[Text, Field(min_length=1)]
        | Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=32)]
    )
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    ranking_options: RankingOptions = RankingOptions()
    rewrite_query: OnlyFalse = False

    def texts(self) -> list[str]:
        return [self.query] if isinstance(self.query, str) else list(self.query)


class FileCounts(BaseModel):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreOut(BaseModel):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]


class StoreFileError(BaseModel):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class OtherChunking(BaseModel):
    type: Literal["other"] = "other"


class StoreFileOut(BaseModel):
    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: int
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    last_error: StoreFileError | None
    attributes: dict[str, str | bool | int | float]
    chunking_strategy: OtherChunking = OtherChunking()


class BatchOut(BaseModel):
    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class _Page(BaseModel):
    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoreList(_Page):
    data: list[StoreOut]


class StoreFileList(_Page):
    data: list[StoreFileOut]


class StoreDeleted(BaseModel):
    id: str
    object: Literal["vector_store.deleted"] = "vector_store.deleted"
    deleted: Literal[True] = True


class StoreFileDeleted(BaseModel):
    id: str
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"
    deleted: Literal[True] = True


class TextOut(BaseModel):
    type: Literal["text"] = "text"
    text: str


class ContentPage(BaseModel):
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextOut]
    has_more: Literal[False] = False
    next_page: None = None


class ResultOut(BaseModel):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | bool | int | float]
    content: list[TextOut]


class ResultPage(BaseModel):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[ResultOut]
    has_more: Literal[False] = False
    next_page: None = None

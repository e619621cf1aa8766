"""The tools of POST /v1/responses, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from serve.fields import Strict, Text
from serve.store_schemas import RankingOptions
from serve.tool_schemas import MODE, NAME, WORDS, Name, Parameters, object_schema


class ToolIn(Strict):
    """A function, or the search over the documents of the use case that answers."""

    type: Literal["function", "file_search"]
    name: Name | None = None
    description: Text | None = None
    parameters: Parameters | None = None
    strict: bool = False
    vector_store_ids: Annotated[list[Text], Field(min_length=1, max_length=1)] | None = None
    """The use case's own name, or the id of a vector store."""
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None

    @model_validator(mode="after")
    def _whole(self) -> ToolIn:
        function = self.type == "function"
        if function and self.name is None:
            raise PydanticCustomError("missing", "needs a name")
        if function == (self.vector_store_ids is not None):
            raise PydanticCustomError("value_error", "needs 'vector_store_ids' if, and only if, it is a file_search")
        if not function and (self.name or self.description or self.parameters):
            raise PydanticCustomError("value_error", "is a file_search, which is no function")
        if not self.of_store and (self.filters or self.max_num_results or self.ranking_options):
            text = "takes 'filters', 'max_num_results' and 'ranking_options' only with the id of a vector store"
            raise PydanticCustomError("value_error", text)
        return self

    @property
    def of_store(self) -> bool:
        """Searches a vector store."""
        return self.vector_store_ids is not None and self.vector_store_ids[0].startswith("vs_")


SEARCH = {"type": "file_search"}


def choice_of(value: Any) -> Any:
    """`value`, where it is a choice among tools that can be made; raises for any other."""
    if value in ("none", "auto", "required") or _tool_by_name(value):
        return value
    if isinstance(value, Mapping) and value.get("type") == "allowed_tools" and set(value) == {"type", "mode", "tools"}:
        tools = value["tools"]
        if (
            value["mode"] in ("auto", "required")
            and isinstance(tools, list)
            and tools
            and all(map(_tool_by_name, tools))
        ):
            return value
    text = (
        "must be 'none', 'auto', 'required', a function by its name, {'type': 'file_search'}, or allowed_tools of these"
    )
    raise PydanticCustomError("unsupported_value", text)


def _tool_by_name(value: Any) -> bool:
    named = isinstance(value, Mapping) and value.get("type") == "function" and set(value) == {"type", "name"}
    return (named and isinstance(value["name"], str)) or value == SEARCH


_NAMED = object_schema(type={"const": "function"}, name=NAME)
_ONE: dict[str, Any] = {"anyOf": [_NAMED, object_schema(type={"const": "file_search"})]}
_SOME: dict[str, Any] = {"type": "array", "items": _ONE, "minItems": 1}
CHOICE = {"anyOf": [WORDS, _ONE, object_schema(type={"const": "allowed_tools"}, mode=MODE, tools=_SOME)]}

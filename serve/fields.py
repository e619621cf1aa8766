"""What request fields are made of: text, text parts, stop strings, strictness."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, LiteralString, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError


def _valid_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("value_error", "holds half of a surrogate pair, which is not text") from None
    return value


T = TypeVar("T", str, list[Any])

Text = Annotated[str, AfterValidator(_valid_text)]

Metadata = Annotated[
    dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]], Field(max_length=16)
]
"""Labels of the caller's own: 16 at most, as OpenAI has it."""


def texts_or_ids(value: Any, most: int, what: str) -> list[str | list[int]]:
    """A text, texts, token ids, or lists of them, as a list of at most `most`; `what` names them."""
    if isinstance(value, str) or _are_ids(value):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(i, str) or _are_ids(i) for i in value):
        raise PydanticCustomError("value_error", "must be a string, token ids, or a list of strings or of token ids")
    if len(value) > most:
        raise PydanticCustomError("too_long", "at most {most} {what} are taken at once", {"most": most, "what": what})
    for text in value:
        if isinstance(text, str):
            _valid_text(text)
    return value


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and 0 <= i < 2**31 for i in value)


def joined(content: Any, kinds: Mapping[str, str], beside: Collection[str] = ()) -> Any:
    """Text parts as one string, a line each. Other parts are refused by their type, and fields that would be ignored.

    Args:
        kinds: the types of part that are taken, each with the field that holds its text.
        beside: other fields of a part, taken without effect.
    """
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            first, field = next(iter(kinds.items()))
            text = f"must be a string, or parts like {{'type': '{first}', '{field}': '...'}}"
            raise PydanticCustomError("value_error", "{text}", {"text": text})
        if kind not in kinds:
            text = "has a part of type '{kind}'; supported: {kinds}"
            raise PydanticCustomError("unsupported_value", text, {"kind": kind[:40], "kinds": ", ".join(kinds)})
        field = kinds[kind]
        if not isinstance(part.get(field), str):
            text = "has a part of type '{kind}' without a '{field}' string"
            raise PydanticCustomError("value_error", text, {"kind": kind, "field": field})
        for key in part:
            if key not in ("type", field, "prompt_cache_breakpoint", *beside):
                text = "has a {kind} part with the field '{key}', which is not supported"
                raise PydanticCustomError("unsupported_value", text, {"kind": kind, "key": str(key)[:40]})
        texts.append(part[field])
    if not texts:
        raise PydanticCustomError("value_error", "must not be an empty list")
    return "\n".join(texts)


def text_or_parts(kinds: Mapping[str, str]) -> WithJsonSchema:
    """The JSON schema of what `joined` takes."""
    parts = [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, field: {"type": "string"}},
            "required": ["type", field],
        }
        for kind, field in kinds.items()
    ]
    items = parts[0] if len(parts) == 1 else {"anyOf": parts}
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": items, "minItems": 1}]})


_TEXT = {"text": "text"}
Content = Annotated[Text, BeforeValidator(partial(joined, kinds=_TEXT)), text_or_parts(_TEXT)]
_SPOKEN = {**_TEXT, "refusal": "refusal"}
Spoken = Annotated[Text, BeforeValidator(partial(joined, kinds=_SPOKEN)), text_or_parts(_SPOKEN)]
"""What an assistant said: a refusal is text like any other to the model that goes on from it."""


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_STOP_LIST = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4}
Stop = Annotated[
    list[Annotated[Text, Field(min_length=1)]],
    Field(max_length=4),
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _STOP_LIST, {"type": "null"}]}),
]


def _nullable(schema: dict[str, Any]) -> None:
    """Let the JSON schema say that a field which may be left out, or is not known, may be null."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    if schema.get("additionalProperties") is False:
        schema["additionalProperties"] = {"type": "null"}


class Strict(BaseModel):
    """No coercion, no unknown fields; a field given as null counts as not given, but for those in `cleared_by_null`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=_nullable)

    cleared_by_null: ClassVar[frozenset[str]] = frozenset()
    """Fields of which null says that what is there is to go."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: item for key, item in value.items() if item is not None or key in cls.cleared_by_null}


def at(param: str, text: str, kind: LiteralString = "value_error") -> PydanticCustomError:
    """An error that names `param`, for checks over several fields."""
    return PydanticCustomError(kind, "{text}", {"param": param, "text": text})


def refuse_unsupported(value: Any, fields: Collection[str]) -> None:
    """Raises for the first of `fields` that the body `value` gives other than as null."""
    if isinstance(value, Mapping):
        for field in value:
            if field in fields and value[field] is not None:
                raise PydanticCustomError("unsupported_parameter", "is not supported by this server", {"param": field})


def bias_of(value: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """logit_bias as engines take it."""
    return tuple((int(token), float(bias)) for token, bias in value.items())


def _off(value: bool) -> bool:
    if value:
        raise PydanticCustomError("unsupported_value", "is only supported as false")
    return value


def only_empty(value: T) -> T:
    """Raises for a text or a list that holds anything."""
    if value:
        raise PydanticCustomError("unsupported_value", "is only supported empty")
    return value


OnlyFalse = Annotated[bool, AfterValidator(_off), WithJsonSchema({"type": "boolean", "enum": [False]})]
"""Literal[False] would take 0 for false."""

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]],
    Field(max_length=300),
]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
ModelName = Annotated[Text, Field(min_length=1, max_length=512)]

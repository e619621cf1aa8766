"""What a user declares about a use case, and how flags, environment and file add up to it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from core.errors import ConfigError, UnknownName
from core.search_settings import Grounding, SearchSettings

DEFAULT_BASE_MODEL = "smollm2-135m-instruct"
DEFAULT_EMBEDDING_MODEL = "all-minilm-l6-v2"
USE_CASE_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Constraints(BaseModel):
    """Facts about the use case that overrule accuracy (see decision.md, hard constraints)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    freshness: bool = False
    """Facts change faster than one would re-train."""
    must_cite: bool = False
    """Answers must name their source."""
    per_user_rights: bool = False
    """Users may see different documents."""
    deletion: bool = False
    """A document must be forgotten on demand."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Most milliseconds at p95."""
    usd_per_1k: float | None = Field(default=None, ge=0)
    """Most US dollars per 1,000 queries."""


def parse_constraints(given: Sequence[str]) -> Constraints:
    """Constraints from flags of the form NAME or NAME=VALUE.

    Raises:
        ConfigError: an unknown name (near names listed), or a value that does not fit.
    """
    values: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in Constraints.model_fields:
            raise UnknownName("constraint", name, Constraints.model_fields)
        values[name] = value or "true"
    try:
        return Constraints.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"constraint {first['loc'][0]} = {first['input']!r}: {first['msg']}") from exc


class Judge(BaseModel):
    """A language model that scores answers, and what it must show before its scores count (docs/scorers.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """As `base_model`: a starter's name, a hub id, a folder, or `MODEL@URL`."""
    labelled: Path | None = None
    """Answers with a person's label: what the judge's agreement is measured on."""
    kappa: float = Field(default=0.4, gt=0, lt=1)
    """Cohen's kappa with the labels that the lower end of its interval must reach."""
    votes: int = Field(default=4, ge=2, le=20, multiple_of=2)
    """Most times an answer is judged, half of them with reference and answer swapped."""
    criteria: str = ""
    """What makes an answer right, beside saying the same as the gold answer."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest reply of the judge; one that reasons first needs more."""
    input_usd_per_1m: float | None = Field(default=None, ge=0)
    """Price of a remote judge's input tokens; None: as the base model's."""
    output_usd_per_1m: float | None = Field(default=None, ge=0)
    """Likewise of its output tokens."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, (str, Path)) else value


class UseCase(BaseModel):
    """One use case as declared: use_case.toml, overlaid by the environment, overlaid by flags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=USE_CASE_NAME)
    description: str = ""
    base_model: str = DEFAULT_BASE_MODEL
    """A starter's name, a hub id, a folder, or `MODEL@URL` for any OpenAI-compatible endpoint."""
    embedding_model: str = DEFAULT_EMBEDDING_MODEL
    store: str | None = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    """URL of a Chroma server for the index; None: Chroma's embedded store, in the workspace."""
    eval: Path | None = None
    """Rows to measure on (JSONL, CSV, TSV, Parquet or OpenAI chat rows)."""
    train: Path | None = None
    """Rows to learn from: few-shot demonstrations and tuning."""
    docs: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    """Files or folders the use case's knowledge lives in."""
    chunk_tokens: int | None = Field(default=None, ge=32, le=8192)
    """Longest chunk that documents are cut into, in the embedding model's tokens; None: about 200. Acts when they are ingested."""
    instruction: str = ""
    """System prompt of the use case, the same in every arm."""
    scorer: str | None = None
    """None: inferred from the data, and said aloud."""
    judge: Judge | None = None
    """Scores in place of `scorer`, once it has shown that it agrees with people."""
    refusals: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Regular expressions for the house's own ways to decline, beside the built-in ones."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; None: derived from the gold answers."""
    delta: float = Field(default=0.05, gt=0, lt=1)
    """The smallest gain worth money, as a share of items."""
    target: float = Field(default=0.90, gt=0, le=1)
    """The rate that is good enough."""
    top_k: int = Field(default=4, ge=1, le=100)
    """Passages put in front of the model."""
    retrieval: SearchSettings = SearchSettings()
    grounding: Grounding = Grounding()
    seed: int = 0
    constraints: Constraints = Constraints()

    @field_validator("refusals")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                found = re.compile(pattern).search("")
            except re.error as exc:
                text = "{pattern} is not a regular expression: {why}"
                raise PydanticCustomError("regex", text, {"pattern": repr(pattern), "why": str(exc)}) from exc
            if found:
                text = "{pattern} is found in every answer, so every answer would be a refusal"
                raise PydanticCustomError("regex", text, {"pattern": repr(pattern)})
        return patterns


_MUST_BE = "it has to be "
_NOT_IN_ENVIRONMENT = ("name", "constraints", "judge", "refusals", "retrieval", "grounding")


def parse_use_case(file: Mapping[str, Any], flags: Mapping[str, Any], folder: Path, source: str) -> UseCase:
    """The use case that `file`, the environment (TUNEFORK_BASE_MODEL, ...) and `flags` declare, in rising precedence.

    Paths of the file are relative to `folder`; those of flags and environment to the working directory.
    A flag that is None or empty was not given. `source` names the file in messages.

    Raises:
        ConfigError: an unknown key or a value out of range; names it.
    """
    values: dict[str, Any] = {key: _anchored(key, value, folder) for key, value in file.items()}
    named: dict[str, str] = {}
    for key in UseCase.model_fields:
        given = flags.get(key)
        where = f"--{key.replace('_', '-')}"
        if given is None or given == ():
            where = f"TUNEFORK_{key.upper()}"
            given = os.environ.get(where) if key not in _NOT_IN_ENVIRONMENT else None
        if given is not None and given != "":
            values[key], named[key] = _anchored(key, given, Path.cwd()), where
    try:
        return UseCase.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            tables: dict[str, type[BaseModel]] = {
                "judge": Judge,
                "constraints": Constraints,
                "retrieval": SearchSettings,
                "grounding": Grounding,
            }
            known = ", ".join(tables.get(str(first["loc"][0]), UseCase).model_fields)
            raise ConfigError(f"{source}: unknown setting {key!r}; known: {known}") from exc
        if first["type"] == "missing":
            raise ConfigError(f"{source}: {key} is missing; it must be given") from exc
        wanted = first["msg"].removeprefix("Input should be ")
        where = named.get(key, f"{source}: {key}")
        raise ConfigError(
            f"{where} = {first['input']!r}: {_MUST_BE if wanted != first['msg'] else ''}{wanted}"
        ) from exc


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError when `path` cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc


def _anchored(key: str, value: Any, folder: Path) -> Any:
    if key in ("eval", "train") and isinstance(value, (str, Path)):
        return (folder / value).resolve()
    if key == "docs" and value:
        items = [value] if isinstance(value, (str, Path)) else list(value)
        return [(folder / item).resolve() for item in items]
    if key == "judge" and isinstance(value, Mapping) and isinstance(value.get("labelled"), (str, Path)):
        return {**value, "labelled": (folder / value["labelled"]).resolve()}
    return value

"""The flags that `query` and `eval-retrieval` search by, over what the use case declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from pydantic import ValidationError

from core.errors import ConfigError
from core.search_settings import Fusion, Method, SearchSettings

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--method", type=click.Choice(get_args(Method)), help="Search by meaning and words, or one of them."),
    click.option("--fusion", type=click.Choice(get_args(Fusion)), help="How `hybrid` makes one order of two."),
    click.option("--dense-weight", type=float, metavar="W", help="Share of the meaning in `hybrid`, 0 to 1."),
    click.option("--candidates", type=int, metavar="N", help="Chunks each of the two searches gives."),
    click.option("--rerank-model", metavar="M", help="Order the best anew: late, or a cross-encoder."),
    click.option("--rerank-depth", type=int, metavar="N", help="How many passages it reads."),
    click.option("--near-duplicates", type=float, metavar="S", help="Leave out passages this alike a better one."),
    click.option("--mmr", type=float, metavar="L", help="Weight of relevance against variety, 0 to 1."),
    click.option("--min-score", type=float, metavar="S", help="Leave out passages that score lower."),
)


def search_options(command: Command) -> Command:
    """`command` with the flags; it gets those that are given as keyword arguments, others as None."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def overlaid(settings: SearchSettings, flags: dict[str, Any]) -> SearchSettings:
    """`settings` with the flags that were given.

    Raises:
        ConfigError: a value out of range; names it.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return _checked({**settings.model_dump(), **given}, "--")


def read_search_settings(path: Path) -> SearchSettings:
    """The `[retrieval]` table of a TOML file; a file without one is the table itself.

    Raises:
        ConfigError: it cannot be read, or holds what is no such setting.
    """
    from core.settings import read_toml

    file = read_toml(path)
    table = file.get("retrieval", {} if "name" in file else file)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: retrieval = {table!r}: must be a table")
    return _checked(table, f"{path}: ")


def _checked(values: dict[str, Any], where: str) -> SearchSettings:
    try:
        return SearchSettings.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        name = key.replace("_", "-") if where == "--" else key
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{where}unknown setting {key!r}; known: {', '.join(SearchSettings.model_fields)}"
            ) from exc
        raise ConfigError(f"{where}{name} = {first['input']!r}: {first['msg']}") from exc

"""Scorers that are the user's own code, `module:function`, and `similarity` by an embedding model."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.scorers.base import Value
from core.errors import ConfigError, UserError
from core.rows import Row


def own(spec: str) -> Value:
    """Value function that calls the user's `module:function` as `function(answer, row)`.

    It returns True, False or a number from 0 to 1. Modules are looked for in the working directory too.

    Raises:
        ConfigError: no such module or function; or (from the value function) it raised, or returned something else.
    """
    module_name, _, function_name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except Exception as exc:
        raise ConfigError(f"scorer {spec!r}: cannot import {module_name!r}: {type(exc).__name__}: {exc}") from exc
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        known = ", ".join(name for name in vars(module) if not name.startswith("_") and callable(vars(module)[name]))
        raise ConfigError(f"scorer {spec!r}: {module_name} has no function {function_name!r}; it has {known or 'none'}")

    def value(answer: str, row: Row) -> float:
        try:
            result = function(answer, row)
        except UserError:
            raise
        except Exception as exc:
            raise ConfigError(f"scorer {spec!r} failed on row {row.id!r}: {type(exc).__name__}: {exc}") from exc
        if not isinstance(result, bool | int | float | np.bool_ | np.number) or not 0 <= float(result) <= 1:
            raise ConfigError(f"scorer {spec!r} gave {result!r} on row {row.id!r}; it must give True, False or 0-1")
        return float(result)

    return value


def similarity(model: str = "") -> Value:
    """Value function of `similarity[:MODEL]`: cosine of the embeddings of answer and nearest gold; negative is 0.

    Raises:
        UnknownName: no such embedding model.
    """
    from core.models import local_folder
    from core.settings import DEFAULT_EMBEDDING_MODEL
    from core.workspace import open_workspace

    folder = local_folder(model or DEFAULT_EMBEDDING_MODEL, open_workspace().models)

    def value(answer: str, row: Row) -> float:
        found = _embedded(str(folder), answer)
        return max(0.0, *(float(found @ _embedded(str(folder), gold)) for gold in row.answers))

    return value


@lru_cache(maxsize=20_000)
def _embedded(folder: str, text: str) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = _encoder(folder).encode(text, normalize_embeddings=True, show_progress_bar=False)
    return vector


@lru_cache(maxsize=1)
def _encoder(folder: str):  # type: ignore[no-untyped-def]  # sentence-transformers is imported only when used
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")

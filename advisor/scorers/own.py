"""Scorers that are the user's own code, `module:function`, and `similarity` by an embedding model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.scorers.base import Prepare, Value
from core.errors import ConfigError, UserError
from core.openmp import brief_team
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
    known = _vectors(_folder(model))

    def value(answer: str, row: Row) -> float:
        known.add([answer, *row.answers])
        found = known.of[answer]
        return max(0.0, *(float(found @ known.of[gold]) for gold in row.answers))

    return value


def similarity_prepare(model: str = "") -> Prepare:
    """Embeds the answers of an arm in one batch, several times faster than one by one."""
    known = _vectors(_folder(model))
    return lambda pairs: known.add([text for answer, row in pairs for text in (answer, *row.answers)])


def _folder(model: str) -> str:
    from core.models import local_folder
    from core.settings import DEFAULT_EMBEDDING_MODEL
    from core.workspace import open_workspace

    return str(local_folder(model or DEFAULT_EMBEDDING_MODEL, open_workspace().models))


class _Vectors:
    """Unit vectors of the texts met so far, by one encoder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.of: dict[str, NDArray[np.float32]] = {}

    def add(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self.of]
        if new:
            with brief_team():
                vectors = _encoder(self._folder).encode(new, normalize_embeddings=True, show_progress_bar=False)
            self.of.update(zip(new, vectors, strict=True))


@lru_cache(maxsize=2)
def _vectors(folder: str) -> _Vectors:
    return _Vectors(folder)


@lru_cache(maxsize=1)
def _encoder(folder: str):  # type: ignore[no-untyped-def]  # sentence-transformers is imported only when used
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")

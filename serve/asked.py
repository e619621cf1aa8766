"""What the worker thread of an answer must know about its request, and no engine is told: whose documents it may see,
and what its retrieval took.

A context variable of the worker thread, since engines are shared by all callers while this belongs to one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from core.types import Source

if TYPE_CHECKING:
    from rag.filters import Filter


Span = tuple[float, float]
"""Start and end, by the monotonic clock."""


@dataclass
class Asked:
    """One answer in the making."""

    tenant: Mapping[str, str] = field(default_factory=dict)
    """Metadata that passages must have."""
    use_case: str = ""
    base_model: str = ""
    engine: str = ""
    arm: str = ""
    """What a canary's draw came to; "" where there is none."""
    retrieval_s: float | None = None
    """None where nothing was retrieved."""
    retrievals: list[Span] = field(default_factory=list)
    answers: list[Span] = field(default_factory=list)
    """One a choice: from its start in the worker to its end, its retrieval included."""


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)


@contextmanager
def asking(asked: Asked) -> Iterator[None]:
    """The block, which must end in the thread it began in, works for `asked`."""
    token, started = _ASKED.set(asked), time.monotonic()
    try:
        yield
    finally:
        _ASKED.reset(token)
        asked.answers.append((started, time.monotonic()))


@contextmanager
def retrieving() -> Iterator[None]:
    """The block's time is what the answer's retrieval took."""
    started = time.monotonic()
    yield
    asked = _ASKED.get()
    if asked is not None:
        ended = time.monotonic()
        asked.retrieval_s = (asked.retrieval_s or 0.0) + ended - started
        asked.retrievals.append((started, ended))


class Filtering(Protocol):
    """What is needed of a `rag.retrieve.Retriever`, or of one with settings of its own."""

    def search(self, texts: Sequence[str], top_k: int, *, filter: Filter | None = None) -> list[list[Source]]: ...


class Watched:
    """A retriever that shows each caller only what is theirs, and times itself. A `rag.engine.Searcher`."""

    def __init__(self, retriever: Filtering) -> None:
        self._retriever = retriever

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        asked = _ASKED.get()
        with retrieving():
            return self._retriever.search(texts, top_k, filter=tenant_filter(asked.tenant if asked else {}))


def tenant_filter(tenant: Mapping[str, str]) -> Filter | None:
    """The passages whose metadata has all these values; None lets everything pass."""
    from rag.filters import Condition, narrowed

    return narrowed(*(Condition("in", key, tenant_values(value)) for key, value in tenant.items()))


def tenant_values(value: str) -> tuple[str | int, ...]:
    """What `value`, written on a command line, may be in metadata: text, or the number it reads as."""
    return (value, int(value)) if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value) else (value,)

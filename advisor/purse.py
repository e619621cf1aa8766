"""What an answer still costs before it is asked for: its call, and the judge's calls that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from advisor.answers import AnswerCache
from advisor.budget import Budget, Cost
from core.engines.base import Engine
from core.rows import Row
from core.types import Request

Judged = Callable[[Row, str | None, int], Cost]
"""The most that judging an answer to a row costs, by its text (None: not known yet) and its most tokens."""


@dataclass(frozen=True)
class Purse:
    """The budget of a run, and what it is spent on."""

    budget: Budget
    cache: AnswerCache
    paid: Engine
    """The engine whose calls are paid for; a head's are not."""
    judged: Judged | None = None

    def needs(self, engine: Engine | None, identity: str, request: Request, row: Row) -> Cost:
        """The most that an answer to `row` costs; nothing where it is known, and judged. `engine`: None for a head."""
        known = self.cache.text(identity, request)
        own = Cost(self.budget.base.most(request), 1) if known is None and engine is self.paid else Cost()
        return own if self.judged is None else own.plus(self.judged(row, known, request.sampling.max_tokens))

    def open(self, engine: Engine, identity: str, request: Request) -> bool:
        """Whether asking it makes a call that is paid for."""
        return engine is self.paid and self.cache.text(identity, request) is None

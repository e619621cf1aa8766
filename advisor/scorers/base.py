"""What a scorer is: a pure function from an answer and its row to a value, with the threshold that makes it right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from core.rows import Row

Value = Callable[[str, Row], float]
"""How right an answer is, 0-1. The row has at least one gold answer; the best of them counts."""


Prepare = Callable[[Sequence[tuple[str, Row]]], None]
"""Told of all (answer, row) pairs of an arm before they are scored one by one."""


_THOUGHT = re.compile(r"\s*<think(?:ing)?>.*?(?:</think(?:ing)?>\s*|\Z)", re.DOTALL | re.IGNORECASE)


def without_thought(text: str) -> str:
    """`text` without the <think> block that reasoning models begin with; "" where it was cut off within the thought."""
    match = _THOUGHT.match(text)
    return text if match is None else text[match.end() :]


class Score(NamedTuple):
    value: float
    """0-1."""
    content: bool | None
    """Whether the right answer is in there; None for a graded scorer without a threshold."""


@dataclass(frozen=True)
class Scorer:
    name: str
    """As the user may write it, e.g. `numeric:0.01` or `token_f1>=0.8`."""
    rule: str
    """What counts as right, as the end of "right when ..."."""
    value: Value
    threshold: float | None = 1.0
    """Least value that is right. None: graded, only the number is kept."""
    labels: tuple[str, ...] = ()
    """The closed set it chooses from, where there is one."""
    why: str = ""
    """One sentence: how this scorer came to be chosen."""
    prepare: Prepare | None = None
    """For scorers that are many times faster on a batch: a judge, embeddings."""

    @property
    def graded(self) -> bool:
        return self.threshold is None

    def score(self, answer: str, row: Row) -> Score:
        """Content only: the shape of the answer is `advisor.form`'s business.

        Raises:
            EngineError: a judge gave no verdict, so nothing is known of the answer.
        """
        value = min(1.0, max(0.0, self.value(answer, row)))
        # A mean of shares can miss its bound by one rounding.
        return Score(value, None if self.threshold is None else value >= self.threshold - 1e-9)

    def because(self, why: str) -> Scorer:
        return replace(self, why=why)

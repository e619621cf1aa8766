"""The rule of decision.md as one function over findings, and the settings it takes.

`choose` works on arrays: with one element it decides on what the tests have
shown; with thousands it says what the rule would choose in each bootstrap draw.
So the confidence is that of the rule itself, not of a second rule beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.settings import Constraints

Route = Literal["base", "prompt", "few-shot", "rag", "tune", "rag+tune", "none", "undecided"]
ROUTES: tuple[Route, ...] = get_args(Route)
_BASE, _PROMPT, _FEW_SHOT, _RAG, _TUNE, _BOTH, _NONE, _UNDECIDED = range(len(ROUTES))

NEEDS_RETRIEVAL = ("freshness", "must_cite", "per_user_rights", "deletion")
"""Constraints that only an answer made from documents at query time can keep."""


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What an arm costs; None where unknown."""

    usd_per_1k: float | None = None
    """US dollars per 1,000 queries."""
    build_usd: float | None = None
    """US dollars to build it once: training, labels, indexing."""


@dataclass(frozen=True)
class DecisionSettings:
    """What the rule is told beside the outcomes.

    Raises:
        ConfigError: a value out of range; names it.
    """

    delta: float = 0.05
    """The smallest gain worth money, as a share of items (or on the score's scale)."""
    target: float = 0.90
    """The rate that is good enough."""
    constraints: Constraints = field(default_factory=Constraints)
    alpha: float = 0.05
    """Chance of a false gain, over all arms together."""
    harm_allowed: float = 0.10
    """Share of items that an arm may break before it is harmful."""
    costs: Mapping[str, ArmCost] = field(default_factory=dict)
    """By arm or family name; an arm that is not here costs what its tokens cost at `usd_per_mtok`."""
    usd_per_mtok: tuple[float, float] | None = None
    """US dollars per million input and output tokens."""
    seed: int = 0
    stepwise: bool = False
    """The arms were asked in steps: items that an arm was not asked are no gap in the data, and `alpha` is the last look's."""

    def __post_init__(self) -> None:
        for name, low, high in (("delta", 0, 1), ("target", 0, 1), ("alpha", 0, 0.5), ("harm_allowed", 0, 1)):
            value = getattr(self, name)
            # `not (a < b < c)` also refuses NaN.
            if not (low < value < high) and not (name == "target" and value == 1):
                raise ConfigError(f"{name} is {value:g}; it must be between {low} and {high:g} (5 points are 0.05)")

    @property
    def must_retrieve(self) -> tuple[str, ...]:
        """The declared constraints that leave only retrieval."""
        return tuple(name for name in NEEDS_RETRIEVAL if getattr(self.constraints, name))


class Findings(NamedTuple):
    """What is known about each remedy; arrays of one shape, one element a draw."""

    adopted: NDArray[np.int64]
    """0 the base as it is, 1 with the prompt, 2 with few-shot demonstrations."""
    rag: NDArray[np.bool_]
    """Candidate: K gains, or a retrieval arm does."""
    tune: NDArray[np.bool_]
    """Candidate: gains over the best of A0, A1, A2."""
    both: NDArray[np.bool_]
    """Gains over the base and over the best single rival."""
    rag_lead: NDArray[np.float64]
    """Rate of what retrieval can ship minus rate of tuning."""
    meets: NDArray[np.bool_]
    """The base as it is meets the target."""
    nothing: NDArray[np.bool_]
    """Every remedy that was measured is known to gain less than delta."""


def choose(found: Findings, settings: DecisionSettings, cheaper: Literal["rag", "tune"] | None) -> NDArray[np.int64]:
    """Index into ROUTES for each element.

    `cheaper` names the cheaper of rag and tune where costs are known: it wins when the
    two lie within delta of each other.
    """
    rag_wins = found.rag_lead >= 0
    if cheaper is not None:
        tied = np.abs(found.rag_lead) < settings.delta - 1e-9
        rag_wins = np.where(tied, cheaper == "rag", rag_wins)
    as_it_is = np.where(found.meets, _BASE, np.where(found.nothing, _NONE, _UNDECIDED))
    without = np.choose(found.adopted, [as_it_is, _PROMPT, _FEW_SHOT])
    single = np.where(found.rag & (~found.tune | rag_wins), _RAG, np.where(found.tune, _TUNE, without))
    if settings.must_retrieve:
        single = np.full_like(single, _RAG)
    return np.where(found.both, _BOTH, single)

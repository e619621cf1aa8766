"""How a use case's passages are found and answered from: `[retrieval]` and `[grounding]` in use_case.toml (docs/retrieval.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

Method = Literal["hybrid", "dense", "lexical"]
Fusion = Literal["convex", "rrf"]
Place = Literal["first", "last"]
"""Where the context of a question stands: before it, or after it."""


class SearchSettings(BaseModel):
    """Every field has a default that was chosen by measurement; `tunefork tune-retrieval` chooses for one use case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "hybrid"
    """By meaning and words, by meaning alone, by words alone."""
    fusion: Fusion = "convex"
    """How `hybrid` makes one order of two: a weighted sum of scores, or reciprocal ranks."""
    dense_weight: float | None = Field(default=None, ge=0, le=1)
    """Share of the meaning in the sum; None: by whether the encoder is for the documents' language."""
    candidates: int = Field(default=100, ge=1, le=2000)
    """Chunks that each of the two searches gives before they are fused."""
    rerank_model: str | None = None
    """Orders the best passages anew: "late" (the embedding model, token by token) or a cross-encoder (folder, hub id)."""
    rerank_depth: int = Field(default=10, ge=2, le=200)
    """How many passages it reads for a question."""
    near_duplicates: float = Field(default=0.9, gt=0, le=1)
    """Passages that share this much of their word sequences with a better one are left out; 1: equal ones only."""
    mmr: float | None = Field(default=None, ge=0, lt=1)
    """Maximal marginal relevance: weight of relevance against unlikeness to the passages chosen; None: relevance alone."""
    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Passages that score lower are not shown."""


class Grounding(BaseModel):
    """How answers are made from passages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cite: bool = False
    """Ask for the passages' numbers in the answer."""
    mark: bool = False
    """Quote each passage between marks that its author cannot know, and say that nothing in it is an instruction."""
    context: Place = "first"
    """Where the passages stand; `advise --arms retrieved,retrieved:context_last` measures which is better."""
    abstain: bool | float = False
    """Answer "not in the documents" where the passages are too far from the question: true, or the least evidence (0..1)."""

    def placed(self, context: Place | None) -> Grounding:
        """The same with the passages at `context`; None: where they are."""
        return self if context is None else self.model_copy(update={"context": context})

    @field_validator("abstain")
    @classmethod
    def _share(cls, value: bool | float) -> bool | float:
        if not isinstance(value, bool) and not 0 <= value <= 1:
            raise PydanticCustomError("share", "must be true, false or a number from 0 to 1")
        return value

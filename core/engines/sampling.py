"""From logits to the next token of each row, every row by its own rules and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.types import Sampling

if TYPE_CHECKING:
    import torch

NUCLEUS_FIRST = 1024
"""Tokens sorted at first to find the nucleus; the whole vocabulary (50k and more) only when these do not hold top_p."""


class Sampler:
    """How one row picks tokens. Its random numbers come from its own generator, so neighbours cannot change them."""

    def __init__(self, sampling: Sampling) -> None:
        import torch

        self.temperature = sampling.temperature
        self.top_p = sampling.top_p
        self._generator: torch.Generator | None = None
        if not self.greedy:
            self._generator = torch.Generator()
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0

    def uniform(self) -> float:
        """The row's next random number in [0, 1)."""
        import torch

        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def pick(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary].
        samplers: one a row.
    """
    # max, not argmax: on a CPU argmax of bf16 is five times slower. Both give the first of equals.
    tokens: list[int] = logits.max(-1).indices.tolist()
    for i, sampler in enumerate(samplers):
        if not sampler.greedy:
            tokens[i] = _draw(logits[i], sampler)
    return tokens


def _draw(logits: torch.Tensor, sampler: Sampler) -> int:
    """One token by inverse transform: the first whose cumulative probability exceeds a uniform number."""
    import torch

    probabilities = torch.softmax(logits.float() / sampler.temperature, -1)
    if sampler.top_p >= 1:
        return _inverse(probabilities, sampler.uniform())
    best = torch.topk(probabilities, min(NUCLEUS_FIRST, probabilities.numel()))
    values, tokens = best.values, best.indices
    if float(values.sum()) < sampler.top_p:
        values, tokens = probabilities.sort(descending=True)
    # A token is in the nucleus when those before it do not reach top_p yet, so the nucleus always holds the best one.
    inside = values.cumsum(0) - values < sampler.top_p
    inside[0] = True
    return int(tokens[_inverse(values * inside, sampler.uniform())])


def _inverse(weights: torch.Tensor, uniform: float) -> int:
    cumulative = weights.double().cumsum(0)
    place = int((cumulative <= uniform * cumulative[-1]).sum())
    last = int(weights.nonzero()[-1])
    return min(place, last)

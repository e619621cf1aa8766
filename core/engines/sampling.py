"""From logits to the next token of each row, every row by its own rules and its own random numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from core.errors import EngineError
from core.types import Sampling

if TYPE_CHECKING:
    import torch

    from core.engines.grammar import Constraint

NUCLEUS_FIRST = 1024
"""Tokens sorted at first to find the nucleus; the whole vocabulary (50k and more) only when these do not hold top_p."""


class Scored(NamedTuple):
    """Log probabilities of one step, by the model's own distribution."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """(token, log probability) of the likeliest, best first."""


class Sampler:
    """How one row picks tokens. Its random numbers come from its own generator, so neighbours cannot change them."""

    def __init__(self, sampling: Sampling, constraint: Constraint | None = None) -> None:
        """`constraint`: what the answer's grammar allows."""
        import torch

        self.scored: Scored | None = None
        """Log probabilities of the newest token, where they are asked for."""
        self.error: EngineError | None = None
        """Why the row cannot go on; its neighbours can."""
        self._constraint = constraint
        self._top_logprobs = sampling.top_logprobs
        self._penalties = (sampling.presence_penalty, sampling.frequency_penalty)
        self._bias = sampling.logit_bias
        self._said: Counter[int] = Counter()
        self._shapes = constraint is not None or any(self._penalties) or bool(self._bias)
        self.plain = sampling.temperature <= 0 and not self._shapes and sampling.top_logprobs is None
        """Takes the highest logit, and reports nothing."""
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

    @property
    def complete(self) -> bool:
        """The grammar allows nothing more."""
        return self._constraint is not None and self._constraint.complete

    def next(self, logits: torch.Tensor, best: int) -> int:
        """The next token, noted for penalties and grammar.

        Args:
            logits: [vocabulary].
            best: place of the highest.
        """
        try:
            shaped = self._shaped(logits) if self._shapes else logits
            token = self._picked(shaped, best)
            if self._constraint is not None:
                self._constraint.take(token)
        except EngineError as exc:
            self.error = exc
            return best
        if any(self._penalties):
            self._said[token] += 1
        if self._top_logprobs is not None:
            self.scored = _score(logits, token, self._top_logprobs)
        return token

    def _picked(self, shaped: torch.Tensor, best: int) -> int:
        if not self.greedy:
            return _draw(shaped, self)
        return int(shaped.max(-1).indices) if self._shapes else best

    def _shaped(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` with penalties, bias and grammar; OpenAI's formula: l - count * frequency - (count > 0) * presence."""
        import torch

        shaped = logits.float().clone()
        presence, frequency = self._penalties
        for token, count in self._said.items():
            shaped[token] -= count * frequency + presence
        for token, bias in self._bias:
            shaped[token] += bias
        if self._constraint is not None:
            allowed = torch.from_numpy(self._constraint.allowed()[: shaped.numel()]).to(shaped.device)
            shaped[: allowed.numel()].masked_fill_(~allowed, -torch.inf)
            shaped[allowed.numel() :] = -torch.inf
        return shaped

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
        if not sampler.plain:
            tokens[i] = sampler.next(logits[i], tokens[i])
    return tokens


def _score(logits: torch.Tensor, token: int, count: int) -> Scored:
    import torch

    logprobs = torch.log_softmax(logits.float(), -1)
    best = torch.topk(logprobs, min(count, logprobs.numel()))
    return Scored(token, float(logprobs[token]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


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

"""A limit on calls and money that is checked before anything is sent, against the most it could cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor.cost import Prices
from core.engines.base import Result
from core.errors import ConfigError, EngineError
from core.types import Request

MESSAGE_TOKENS = 16
"""Most tokens a chat template puts around one message."""
FIRST_S_PER_TOKEN = 0.02
"""What a token of a local model is reckoned to take before one was measured."""
MARGIN = 2.0
"""A local batch may take this many times what the slowest one so far took for as many tokens."""


@dataclass
class Budget:
    """What this run may still spend. Answers from the cache were paid for before and are free.

    A remote model's call costs at most its prompt's bytes (no token is shorter than a byte) plus `max_tokens`, at the
    declared prices. A local model costs machine time, which no one knows before: it is reckoned from the slowest batch
    so far, twice over.
    """

    prices: Prices
    remote: bool
    usd: float | None = None
    calls: int | None = None
    spent_usd: float = 0.0
    spent_calls: int = 0
    stopped: bool = False
    _s_per_token: float = 0.0

    def __post_init__(self) -> None:
        if self.usd is not None and not 0 < self.usd < float("inf"):
            raise ConfigError(f"--budget is {self.usd:g}; it must be over 0 US dollars")
        if self.calls is not None and self.calls < 1:
            raise ConfigError(f"--budget-calls is {self.calls}; it must be 1 or more")
        if self.usd is not None and self.remote and not (self.prices.input_usd_per_1m or self.prices.output_usd_per_1m):
            raise ConfigError(
                "--budget needs the prices of the remote model: give --input-usd-per-1m and --output-usd-per-1m"
            )

    @property
    def limited(self) -> bool:
        return self.usd is not None or self.calls is not None

    def worst_usd(self, request: Request) -> float:
        """The most that one call can cost."""
        read = most_tokens(request)
        written = request.sampling.max_tokens
        if self.remote:
            return (read * self.prices.input_usd_per_1m + written * self.prices.output_usd_per_1m) / 1e6
        rate = MARGIN * self._s_per_token if self._s_per_token else FIRST_S_PER_TOKEN
        return self.seconds_usd(rate * (read / 3 + written))

    def seconds_usd(self, seconds: float) -> float:
        return seconds * self.prices.machine_usd_per_hour / 3600

    def holds(self, usd: float, calls: int) -> bool:
        """Whether that much may still be spent."""
        within = self.usd is None or self.spent_usd + usd <= self.usd
        return within and (self.calls is None or self.spent_calls + calls <= self.calls)

    def spend(self, requests: Sequence[Request], results: Sequence[Result], elapsed_s: float) -> None:
        """Book calls that were really made. A failed one is booked at its most: it may have been billed."""
        self.spent_calls += len(requests)
        if not self.remote:
            self.spent_usd += self.seconds_usd(elapsed_s)
            tokens = sum(most_tokens(request) / 3 + request.sampling.max_tokens for request in requests)
            if tokens:
                self._s_per_token = max(self._s_per_token, elapsed_s / tokens)
            return
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, EngineError):
                self.spent_usd += self.worst_usd(request)
            else:
                usage = result.usage
                self.spent_usd += (
                    usage.prompt_tokens * self.prices.input_usd_per_1m
                    + usage.completion_tokens * self.prices.output_usd_per_1m
                ) / 1e6

    def document(self) -> dict[str, object] | None:
        """The `budget` part of report.json; None without a limit."""
        if not self.limited:
            return None
        parts = []
        if self.usd is not None:
            parts.append(f"{self.spent_usd:.4f} of {self.usd:g} USD")
        if self.calls is not None:
            parts.append(f"{self.spent_calls} of {self.calls} calls")
        end = "the run stopped there, with what it had" if self.stopped else "it was enough"
        return {
            "usd": self.usd,
            "calls": self.calls,
            "usd_spent": round(self.spent_usd, 6),
            "calls_spent": self.spent_calls,
            "stopped": self.stopped,
            "text": f"Budget: {' and '.join(parts)} spent; {end}.",
        }


def most_tokens(request: Request) -> int:
    """Tokens of the prompt, at most: no tokenizer makes more tokens than there are bytes."""
    return sum(len(m.content.encode()) + MESSAGE_TOKENS for m in request.messages) + MESSAGE_TOKENS

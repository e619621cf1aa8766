"""A limit on calls and money that is checked before anything is sent, against the most it could cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from advisor.cost import Prices
from core.engines.base import Result
from core.errors import ConfigError, EngineError
from core.models import remote, starter
from core.settings import UseCase
from core.types import Request

MESSAGE_TOKENS = 16
"""Most tokens a chat template puts around one message."""
FIRST_S_PER_TOKEN = 0.02
"""What a token of a local model is reckoned to take before one was measured."""
MARGIN = 2.0
"""A local batch may take this many times what the slowest one so far took for as many tokens."""


class Cost(NamedTuple):
    """What is still to be paid, at most."""

    usd: float = 0.0
    calls: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.calls + other.calls)


@dataclass
class Payee:
    """Whom calls are paid to: an endpoint by the token, or this machine by the hour.

    A remote model's call costs at most its prompt's bytes (no token is shorter than a byte) plus `max_tokens`, at the
    declared prices. A local model costs machine time, which no one knows before: it is reckoned from the slowest batch
    so far, twice over.
    """

    prices: Prices
    remote: bool
    _s_per_token: float = 0.0

    @property
    def priced(self) -> bool:
        return not self.remote or bool(self.prices.input_usd_per_1m or self.prices.output_usd_per_1m)

    def most(self, request: Request) -> float:
        """The most US dollars that one call can cost."""
        read, written = most_tokens(request), request.sampling.max_tokens
        if self.remote:
            return self._tokens_usd(read, written)
        rate = MARGIN * self._s_per_token if self._s_per_token else FIRST_S_PER_TOKEN
        return self.seconds_usd(rate * (read / 3 + written))

    def billed(self, requests: Sequence[Request], results: Sequence[Result], elapsed_s: float) -> float:
        """What calls that were really made cost. A failed one costs its most: it may have been billed."""
        if not self.remote:
            tokens = sum(most_tokens(request) / 3 + request.sampling.max_tokens for request in requests)
            if tokens:
                self._s_per_token = max(self._s_per_token, elapsed_s / tokens)
            return self.seconds_usd(elapsed_s)
        return sum(
            self.most(request)
            if isinstance(result, EngineError)
            else self._tokens_usd(result.usage.prompt_tokens, result.usage.completion_tokens)
            for request, result in zip(requests, results, strict=True)
        )

    def usd(self, input_tokens: float, output_tokens: float, elapsed_s: float) -> float:
        """What so many tokens cost, or so much time of this machine."""
        return self._tokens_usd(input_tokens, output_tokens) if self.remote else self.seconds_usd(elapsed_s)

    def seconds_usd(self, seconds: float) -> float:
        return seconds * self.prices.machine_usd_per_hour / 3600

    def _tokens_usd(self, read: float, written: float) -> float:
        return (read * self.prices.input_usd_per_1m + written * self.prices.output_usd_per_1m) / 1e6


@dataclass
class Budget:
    """What this run may still spend. Answers from the cache were paid for before and are free.

    Raises:
        ConfigError: a limit that cannot be kept: not over 0, or in dollars with a remote model without a price.
    """

    base: Payee
    usd: float | None = None
    calls: int | None = None
    judge: Payee | None = None
    spent_usd: float = 0.0
    spent_calls: int = 0
    stopped: bool = False
    """Something that was wanted was not asked, for want of budget."""
    left_out: dict[str, None] = field(default_factory=dict)
    """What beside the arms it did not hold: a learning curve, the judge's votes."""

    def __post_init__(self) -> None:
        if self.usd is not None and not 0 < self.usd < float("inf"):
            raise ConfigError(f"--budget is {self.usd:g}; it must be over 0 US dollars")
        if self.calls is not None and self.calls < 1:
            raise ConfigError(f"--budget-calls is {self.calls}; it must be 1 or more")
        if self.usd is not None and not self.base.priced:
            raise ConfigError(
                "--budget needs the prices of the remote model: give --input-usd-per-1m and --output-usd-per-1m"
            )
        if self.usd is not None and self.judge is not None and not self.judge.priced:
            raise ConfigError(
                "--budget needs the prices of the remote judge: give input_usd_per_1m and output_usd_per_1m in [judge]"
            )

    @property
    def limited(self) -> bool:
        return self.usd is not None or self.calls is not None

    def holds(self, cost: Cost) -> bool:
        """Whether that much may still be spent."""
        within = self.usd is None or self.spent_usd + cost.usd <= self.usd
        return within and (self.calls is None or self.spent_calls + cost.calls <= self.calls)

    def spend(self, payee: Payee, requests: Sequence[Request], results: Sequence[Result], elapsed_s: float) -> None:
        """Book calls that were really made."""
        self.spent_calls += len(requests)
        self.spent_usd += payee.billed(requests, results, elapsed_s)

    def leave_out(self, what: str) -> None:
        """Note what it did not hold."""
        self.left_out[what] = None

    def spend_seconds(self, seconds: float) -> None:
        """Book time of this machine."""
        self.spent_usd += self.base.seconds_usd(seconds)

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
        if self.left_out and not self.stopped:
            end = f"it did not hold {' and '.join(self.left_out)}"
        return {
            "usd": self.usd,
            "calls": self.calls,
            "usd_spent": round(self.spent_usd, 6),
            "calls_spent": self.spent_calls,
            "stopped": self.stopped,
            "text": f"Budget: {' and '.join(parts)} spent; {end}.",
        }


def budget_of(settings: UseCase, engine: str, prices: Prices, usd: float | None, calls: int | None) -> Budget:
    """The budget of a run, with whom its calls are paid to.

    Raises:
        ConfigError: a limit that cannot be kept.
    """
    # An endpoint that is named as engine is paid by the token where a price is given, else as a machine of one's own.
    priced = bool(prices.input_usd_per_1m or prices.output_usd_per_1m)
    base = Payee(prices, remote(settings.base_model) is not None or (engine.startswith("http") and priced))
    judge = settings.judge
    if judge is None:
        return Budget(base, usd, calls)
    read, written = judge.input_usd_per_1m, judge.output_usd_per_1m
    own = prices._replace(
        input_usd_per_1m=prices.input_usd_per_1m if read is None else read,
        output_usd_per_1m=prices.output_usd_per_1m if written is None else written,
    )
    if same_model(judge.model, settings.base_model):
        # They share an engine, so a measured speed of one is that of the other.
        return Budget(base, usd, calls, base if own == prices else Payee(own, base.remote))
    return Budget(base, usd, calls, Payee(own, remote(judge.model) is not None))


def same_model(one: str, other: str) -> bool:
    """Whether both names are of one model."""
    found = [starter(name) for name in (one, other)]
    return one == other or (found[0] is not None and found[0] == found[1])


def most_tokens(request: Request) -> int:
    """Tokens of the prompt, at most: no tokenizer makes more tokens than there are bytes."""
    return sum(len(m.content.encode()) + MESSAGE_TOKENS for m in request.messages) + MESSAGE_TOKENS

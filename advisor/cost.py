"""What an arm costs per 1,000 queries, from what was measured: tokens at a price, or machine time at a rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.engines.base import Result
from core.errors import EngineError


class Prices(NamedTuple):
    """How compute is paid. Token prices count for a remote base model, machine time for a local one."""

    input_usd_per_1m: float = 0.0
    output_usd_per_1m: float = 0.0
    machine_usd_per_hour: float = 0.10
    """A general-purpose cloud machine with 2 cores and 8-24 GB rents for about this (2026)."""


class ArmCosts(NamedTuple):
    input_tokens: float
    """Mean a query."""
    output_tokens: float
    """Mean a query."""
    usd_per_1k: float
    """US dollars per 1,000 queries."""
    build_usd: float
    """US dollars once, for the pilot."""


def arm_costs(
    results: Sequence[Result], elapsed_s: float, build_s: float, prices: Prices, remote: bool
) -> ArmCosts | None:
    """None when every call failed."""
    done = [r for r in results if not isinstance(r, EngineError)]
    if not done:
        return None
    tokens_in = sum(r.usage.prompt_tokens for r in done) / len(done)
    tokens_out = sum(r.usage.completion_tokens for r in done) / len(done)
    if remote:
        a_query = (tokens_in * prices.input_usd_per_1m + tokens_out * prices.output_usd_per_1m) / 1e6
    else:
        a_query = elapsed_s / len(done) * prices.machine_usd_per_hour / 3600
    build = build_s * prices.machine_usd_per_hour / 3600
    return ArmCosts(tokens_in, tokens_out, a_query * 1000, build)

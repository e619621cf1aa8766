"""Simulated use cases whose truth is known, and eval sets drawn from them.

Every item fails for a reason (missing knowledge, missing behaviour, both, or neither remedy helps); every arm mends some
reasons and reshuffles a few answers at random. So each arm's true rate is known, and with it the true route: the rule
read on true rates (`true_route`, written apart from the advisor's code).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from advisor.outcomes import CORRECT, WRONG, ArmOutcomes, OutcomeTable

DELTA, TARGET = 0.05, 0.90
ARMS = ("closed", "prompt", "few_shot", "oracle", "retrieved", "tune", "tune_retrieved")
SHIPPED = {
    "base": "closed",
    "none": "closed",
    "undecided": "closed",
    "prompt": "prompt",
    "few-shot": "few_shot",
    "rag": "retrieved",
    "tune": "tune",
    "rag+tune": "tune_retrieved",
}
ACTIONS = {"prompt", "few-shot", "rag", "tune", "rag+tune"}
KINDS = ("rag", "tune", "few-shot", "prompt", "rag+tune", "none", "base", "harm")


@dataclass(frozen=True)
class World:
    """One use case: its reasons (rows) and each arm's chance to be right on them (columns, as ARMS)."""

    kind: str
    weights: np.ndarray
    right: np.ndarray
    harmful: frozenset[str] = frozenset()

    @property
    def rates(self) -> dict[str, float]:
        return dict(zip(ARMS, (self.weights @ self.right).tolist(), strict=True))


def world(kind: str, rng: np.random.Generator) -> World:
    """A use case of that kind, its sizes drawn at random."""
    noise = rng.uniform(0.02, 0.10)
    if kind in ("null", "none"):
        base = rng.uniform(0.02, 0.8)
        return _mixed(kind, {"known": base, "stuck": 1 - base}, {}, noise)
    if kind == "base":
        return _mixed(kind, {"known": 0.99, "stuck": 0.01}, {}, noise=rng.uniform(0.005, 0.05))
    gain = rng.uniform(0.10, 0.60)
    base = rng.uniform(0.02, 0.85 - gain)
    rest = 1 - base - gain
    part = rng.uniform(0.0, 0.5)
    if kind == "rag":
        realised = rng.uniform(0.5, 1.0)
        mends = {"knowledge": {"oracle": 1.0, "retrieved": realised, "tune_retrieved": realised}}
        return _mixed(kind, {"known": base, "knowledge": gain, "stuck": rest}, mends, noise)
    if kind == "tune":
        mends = {"behaviour": {"few_shot": part, "tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(kind, {"known": base, "behaviour": gain, "stuck": rest}, mends, noise)
    if kind == "few-shot":
        mends = {"behaviour": {"prompt": part, "few_shot": 1.0, "tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(kind, {"known": base, "behaviour": gain, "stuck": rest}, mends, noise)
    if kind == "prompt":
        every = dict.fromkeys(ARMS[1:], 1.0)
        return _mixed(kind, {"known": base, "form": gain, "stuck": rest}, {"form": every}, noise)
    if kind == "rag+tune":
        shares = rng.dirichlet((2, 2, 3)) * gain
        mends = {
            "knowledge": {"oracle": 1.0, "retrieved": 0.9, "tune_retrieved": 0.9},
            "behaviour": {"tune": 1.0, "tune_retrieved": 1.0},
            "both": {"tune_retrieved": 0.9},
        }
        weights = {"known": base, "knowledge": shares[0], "behaviour": shares[1], "both": shares[2], "stuck": rest}
        return _mixed(kind, weights, mends, noise)
    if kind == "harm":
        # Tuning mends and breaks alike: a few points better on the mean, a fifth of all items newly wrong.
        broken, base = rng.uniform(0.2, 0.3), rng.uniform(0.45, 0.6)
        mended = broken + rng.uniform(0.0, 0.08)
        weights = {"known": base - broken, "fragile": broken, "behaviour": mended, "stuck": 1 - base - mended}
        right = {"fragile": {"tune": 0.0, "tune_retrieved": 0.0}, "behaviour": {"tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(
            kind, weights, right, noise, known=("known", "fragile"), harmful=frozenset({"tune", "tune_retrieved"})
        )
    raise ValueError(kind)


def _mixed(
    kind: str,
    weights: dict[str, float],
    mends: dict[str, dict[str, float]],
    noise: float,
    known: tuple[str, ...] = ("known",),
    harmful: frozenset[str] = frozenset(),
) -> World:
    rows = []
    for reason in weights:
        default = 1.0 if reason in known else 0.0
        chances = np.array([mends.get(reason, {}).get(arm, default) for arm in ARMS])
        rows.append(noise + (1 - 2 * noise) * chances)
    share = np.array(list(weights.values()))
    return World(kind, share / share.sum(), np.array(rows), harmful)


def true_route(rates: dict[str, float], harmful: Iterable[str] = ()) -> str:
    """The rule of decision.md read on true rates."""
    gone = set(harmful)
    base_route, base = "base", rates["closed"]
    for route, arm in (("prompt", "prompt"), ("few-shot", "few_shot")):
        if arm not in gone and rates[arm] - base >= DELTA:
            base_route, base = route, rates[arm]
    prompted = max(rates["closed"], rates["prompt"], rates["few_shot"])
    rivals = max(prompted, rates["retrieved"], rates["tune"])
    if "tune_retrieved" not in gone and rates["tune_retrieved"] - rivals >= DELTA:
        return "rag+tune"
    rag = rates["oracle"] - base >= DELTA or rates["retrieved"] - base >= DELTA
    if base_route != "base" and rates["retrieved"] < base:
        rag = False
    tune = "tune" not in gone and rates["tune"] - prompted >= DELTA
    if rag and (not tune or rates["retrieved"] >= rates["tune"]):
        return "rag"
    if tune:
        return "tune"
    if base_route != "base":
        return base_route
    return "base" if rates["closed"] >= TARGET else "none"


def sample(truth: World, n: int, rng: np.random.Generator, cluster_size: int) -> OutcomeTable:
    """An eval set of n items. Items of a cluster share their reason every other time."""
    clusters = None
    if cluster_size > 1:
        clusters = np.arange(n) // cluster_size
        own = rng.choice(len(truth.weights), size=n, p=truth.weights)
        shared = rng.choice(len(truth.weights), size=clusters[-1] + 1, p=truth.weights)[clusters]
        reasons = np.where(rng.random(n) < 0.5, shared, own)
    else:
        reasons = rng.choice(len(truth.weights), size=n, p=truth.weights)
    right = rng.random((n, len(ARMS))) < truth.right[reasons]
    nothing = np.full(n, np.nan)
    arms = {
        arm: ArmOutcomes(
            np.where(right[:, i], CORRECT, WRONG).astype(np.int8),
            right[:, i].astype(float),
            right[:, i].astype(float),
            nothing,
            nothing,
            nothing,
        )
        for i, arm in enumerate(ARMS)
    }
    return OutcomeTable(tuple(f"{i:05d}" for i in range(n)), arms, {}, clusters, False, "accuracy", False)


def powered(kind: str, gain: float) -> World:
    """A true gain with 5 % of the items lost: by retrieval (oracle, retrieved, both) or by tuning (tune, both)."""
    mends = ("oracle", "retrieved", "tune_retrieved") if kind == "rag" else ("tune", "tune_retrieved")
    weights = {"known": 0.30, "lost": 0.05, "gained": gain + 0.05, "stuck": 0.60 - gain}
    right = {"lost": dict.fromkeys(mends, 0.0), "gained": dict.fromkeys(mends, 1.0)}
    return _mixed(kind, weights, right, noise=0.0, known=("known", "lost"))

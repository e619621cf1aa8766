"""Texts that are the same, nearly the same, or share a long run of words: within one set and between two.

All of it is linear in the text: windows are compared by hash, near duplicates by banded MinHash with every candidate
pair checked by its exact Jaccard index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW = 13
"""Tokens. The window of GPT-3's contamination study (Brown et al. 2020, appendix C)."""

BOILERPLATE = 5
"""A window in more texts than this is a template's, not a leak."""

JACCARD = 0.8
SHINGLE = 5
"""Characters a shingle."""

BANDS, ROWS = 16, 4
"""MinHash bands x rows: a pair at Jaccard .8 becomes a candidate with probability 1 - (1 - .8^4)^16 = .9998."""

MAX_CHARS = 4000
"""Of a text, for near duplicates: a long context does not make ten thousand rows slow."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FIRSTS = 3
"""Members of a bucket that others are compared with."""


class Pair(NamedTuple):
    """Indices of two texts that are alike."""

    left: int
    right: int


def shared_windows(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> list[Pair]:
    """For each text of `left` (as tokens) that shares 13 tokens in a row with one of `right`, the first such pair."""
    a, b = [_window_hashes(tokens) for tokens in left], [_window_hashes(tokens) for tokens in right]
    rare = np.setdiff1d(np.intersect1d(_all(a), _all(b)), np.union1d(_common(a), _common(b)))
    if not rare.size:
        return []
    owner: dict[int, int] = {}
    for index, window in _of_interest(b, rare):
        owner.setdefault(window, index)
    first: dict[int, int] = {}
    for index, window in _of_interest(a, rare):
        first.setdefault(index, owner[window])
    return [Pair(index, other) for index, other in first.items()]


def _of_interest(hashes: Sequence[NDArray[np.uint64]], rare: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """(text, window) for every window that is in `rare`, in the order of the texts."""
    owners = np.repeat(np.arange(len(hashes)), [len(found) for found in hashes])
    every = _all(hashes)
    kept = np.isin(every, rare)
    yield from zip(owners[kept].tolist(), every[kept].tolist(), strict=True)


class Sketch(NamedTuple):
    """What near duplicates are found by: a text's shingles as sorted hashes, and their MinHash."""

    shingles: NDArray[np.uint64]
    bands: tuple[bytes, ...]


def sketch(text: str) -> Sketch:
    """The sketch of `text` in normal form; an empty text is near to none."""
    codes = np.frombuffer(text[:MAX_CHARS].encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if not codes.size:
        return Sketch(codes, ())
    size = min(SHINGLE, codes.size)
    hashes = np.zeros(codes.size - size + 1, dtype=np.uint64)
    for k in range(size):
        hashes = hashes * _FACTOR + codes[k : k + hashes.size]
    shingles = _distinct(hashes)
    mixed = (shingles ^ (shingles >> np.uint64(29))) * _FACTOR
    factors, offsets = _permutations()
    minima = ((mixed[:, None] * factors + offsets) >> np.uint64(32)).min(axis=0)
    return Sketch(shingles, tuple(minima[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)))


def alike(a: Sketch, b: Sketch) -> bool:
    """Whether two texts are near duplicates: Jaccard >= .8 of their shingles."""
    return bool(a.shingles.size and b.shingles.size) and _jaccard(a.shingles, b.shingles) >= JACCARD


def near_pairs(sketches: Sequence[Sketch]) -> list[Pair]:
    """Texts with an earlier one at Jaccard >= .8 (character 5-grams), each with the earliest found; equal ones too."""
    index = _Index()
    pairs = []
    for place, found in enumerate(sketches):
        match = index.near(found)
        if match is not None:
            pairs.append(Pair(place, match))
        index.add(place, found)
    return pairs


def near_pairs_between(left: Sequence[Sketch], right: Sequence[Sketch]) -> list[Pair]:
    """Texts of `left` with one of `right` at Jaccard >= .8, each with the earliest such text found."""
    index = _Index()
    for place, found in enumerate(right):
        index.add(place, found)
    matches = ((place, index.near(found)) for place, found in enumerate(left))
    return [Pair(place, match) for place, match in matches if match is not None]


class _Index:
    """Sketches by band. Only the first few of a bucket are kept: more would take quadratic time on templated sets."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._shingles: dict[int, NDArray[np.uint64]] = {}

    def add(self, place: int, found: Sketch) -> None:
        for key in enumerate(found.bands):
            bucket = self._buckets[key]
            if len(bucket) < _FIRSTS:
                bucket.append(place)
                self._shingles[place] = found.shingles

    def near(self, found: Sketch) -> int | None:
        candidates = {place for key in enumerate(found.bands) for place in self._buckets.get(key, ())}
        return next((p for p in sorted(candidates) if _jaccard(found.shingles, self._shingles[p]) >= JACCARD), None)


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    if min(a.size, b.size) < JACCARD * max(a.size, b.size):
        return 0.0
    common = np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


@lru_cache(maxsize=1)
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return factors, random.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)


def _window_hashes(tokens: Sequence[str]) -> NDArray[np.uint64]:
    """Hash of each run of 13 tokens, without repeats; none where the text is shorter."""
    if len(tokens) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    ids = np.array([_token_hash(token) for token in tokens], dtype=np.uint64)
    hashes = np.zeros(len(ids) - WINDOW + 1, dtype=np.uint64)
    for k in range(WINDOW):
        hashes = hashes * _FACTOR + ids[k : k + len(hashes)]
    return _distinct(hashes)


@lru_cache(maxsize=1 << 18)
def _token_hash(token: str) -> int:
    return int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little")


def _distinct(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted, without repeats. For short arrays this is several times faster than np.unique."""
    ordered = np.sort(hashes)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if ordered.size else ordered


def _all(hashes: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate(hashes) if hashes else np.empty(0, dtype=np.uint64)


def _common(hashes: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    values, counts = np.unique(_all(hashes), return_counts=True)
    return values[counts > BOILERPLATE]

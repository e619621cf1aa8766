"""Prompt beginnings worth keeping: few-shot demonstrations, label lists, system prompts, earlier turns.

A beginning is kept the second time it is seen, so prompts that share nothing
cost nothing. What is kept is found by comparing token ids, not by being told.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

MIN_SHARED = 32
"""Tokens a shared beginning must have; below that the extra forward pass costs more than it saves."""

RECENT = 64
"""Earlier prompts (token ids only) that a new one is compared with."""

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a prompt's beginning under one adapter."""

    ids: Ids
    adapter: int
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    """One pair [key heads, length, dim] a layer."""


class PrefixStore:
    """The beginnings that are kept, least recently used out first."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: most tokens kept in all."""
        self._capacity = capacity
        self._kept: OrderedDict[int, Prefix] = OrderedDict()
        self._recent: deque[tuple[int, Ids]] = deque(maxlen=RECENT)
        self._next = 0

    def see(self, prompts: Sequence[Ids], adapters: Sequence[int]) -> None:
        """Remember that these prompts were asked."""
        self._recent.extend(zip(adapters, prompts, strict=True))

    def shared(self, prompt: Ids, adapter: int) -> int:
        """Tokens `prompt` shares with another recent prompt, itself not counted; at most all but its last."""
        others = (ids for known, ids in self._recent if known == adapter and ids is not prompt)
        return min(max((common(prompt, ids) for ids in others), default=0), len(prompt) - 1)

    def best(self, prompt: Ids, adapter: int) -> tuple[Prefix | None, int]:
        """The kept beginning that covers most of `prompt`, and how many of its tokens do; (None, 0) when too few."""
        length, key = 0, None
        for number, prefix in self._kept.items():
            if prefix.adapter == adapter and (n := common(prompt, prefix.ids)) > length:
                length, key = n, number
        length = min(length, len(prompt) - 1)
        if key is None or length < MIN_SHARED:
            return None, 0
        self._kept.move_to_end(key)
        return self._kept[key], length

    def keep(self, prefix: Prefix) -> None:
        """Keep `prefix`; what it extends is kept no longer, for it contains that."""
        for number, known in list(self._kept.items()):
            if known.adapter == prefix.adapter and common(known.ids, prefix.ids) == len(known.ids):
                del self._kept[number]
        self._kept[self._next] = prefix
        self._next += 1
        while len(self._kept) > 1 and sum(len(p.ids) for p in self._kept.values()) > self._capacity:
            self._kept.popitem(last=False)

    def worth(self, shared: int, covered: int) -> bool:
        """Whether a beginning of `shared` tokens should be kept when `covered` of them are kept already."""
        return shared >= covered + MIN_SHARED and shared <= self._capacity


def common(a: Ids, b: Ids) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n

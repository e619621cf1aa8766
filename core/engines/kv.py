"""Keys and values of the rows that are being decoded.

Every row starts at column 0 of its slot and grows by itself, so rows join and
leave without realigning the others (with the usual left padding all rows share
the last column, and a long-lived batch pads itself to death).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMNS = 128
"""Columns the buffers grow by, at least."""


class Write:
    """Where the coming forward pass puts its new column, the same in every layer."""

    def __init__(self) -> None:
        self.count = 0
        self.width = 0
        self._columns: Any = None
        """[rows, 1]."""
        self._lines: dict[int, torch.Tensor] = {}

    def open(self, columns: Any) -> None:
        """The column of each row [rows]."""
        self.count = len(columns)
        self._columns = columns[:, None]
        self._lines = {}

    def lines(self, buffer: Any) -> torch.Tensor:
        """Lines of `buffer` seen as [slots x key heads x columns, dim], [rows x key heads]."""
        _, heads, columns, _ = buffer.shape
        if heads not in self._lines:
            first = torch.arange(self.count * heads, device=self._columns.device).view(self.count, heads) * columns
            self._lines[heads] = (first + self._columns).flatten()
        return self._lines[heads]


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Buffers [slots, key heads, columns, dim] of one layer."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        write = self._write
        assert self.keys is not None and self.values is not None
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer.view(-1, buffer.shape[-1]).index_copy_(0, write.lines(buffer), states.reshape(-1, buffer.shape[-1]))
        return self.keys[: write.count, :, : write.width], self.values[: write.count, :, : write.width]

    def get_seq_length(self) -> int:
        return max(self._write.width - 1, 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._write.width, 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """Cache of a changing batch: row i of the batch lives in slot i."""

    def __init__(self, layers: int) -> None:
        self._write = Write()
        super().__init__(layers=[SlotLayer(self._write) for _ in range(layers)])
        self.lengths: list[int] = []
        """Columns in use, one a row."""

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def join(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add a row with these keys and values, one pair [key heads, length, dim] a layer."""
        length = layers[0][0].shape[1]
        slot = self.rows
        self._reserve(slot + 1, length + 1, layers)
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.keys[slot, :, :length] = keys
            layer.values[slot, :, :length] = values
        self.lengths.append(length)

    def leave(self, slot: int) -> None:
        """Drop a row; the last one moves into its slot."""
        last = self.rows - 1
        if slot != last:
            length = self.lengths[last]
            for layer in self.layers:
                layer.keys[slot, :, :length] = layer.keys[last, :, :length]
                layer.values[slot, :, :length] = layer.values[last, :, :length]
            self.lengths[slot] = length
        self.lengths.pop()
        if not self.lengths:
            self.release()

    def open_column(self) -> None:
        """Prepare the next forward pass: one new column in every row."""
        self._reserve(self.rows, max(self.lengths) + 1, None)
        self._write.open(torch.tensor(self.lengths, device=self.layers[0].keys.device))
        self.lengths = [length + 1 for length in self.lengths]
        self._write.width = max(self.lengths)

    def release(self) -> None:
        """Forget all rows and free the buffers."""
        self.lengths = []
        self._write.width = self._write.count = 0
        for layer in self.layers:
            layer.keys = layer.values = None

    def _reserve(self, slots: int, columns: int, like: Sequence[tuple[torch.Tensor, torch.Tensor]] | None) -> None:
        """Make the buffers hold `slots` x `columns`, growing by half at least so that growth stays cheap."""
        old = self.layers[0].keys
        have_slots, have_columns = (0, 0) if old is None else (old.shape[0], old.shape[2])
        if slots <= have_slots and columns <= have_columns:
            return
        if slots > have_slots:
            slots = max(slots, have_slots * 2)
        if columns > have_columns:
            columns = -(-max(columns + COLUMNS // 2, have_columns * 3 // 2) // COLUMNS) * COLUMNS
        slots, columns = max(slots, have_slots), max(columns, have_columns)
        for i, layer in enumerate(self.layers):
            keys, values = like[i] if like is not None else (layer.keys[0], layer.values[0])
            layer.keys = self._grown(layer.keys, keys, slots, columns)
            layer.values = self._grown(layer.values, values, slots, columns)
            layer.is_initialized = True

    def _grown(self, old: Any, like: Any, slots: int, columns: int) -> Any:
        # Zeros, not garbage: a masked column still enters the weighted sum, and 0 x NaN is NaN.
        new = like.new_zeros((slots, like.shape[0], columns, like.shape[2]))
        if old is not None:
            new[: self.rows, :, : old.shape[2]] = old[: self.rows]
        return new

"""A running batch on one model: rows are prefilled and join it, each step adds a token to every row, rows leave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from core.engines.kv import SlotCache
from core.engines.lora import AdapterBank
from core.engines.prefixes import Ids, Prefix, PrefixStore
from core.engines.sampling import Sampler, pick
from core.errors import EngineUnavailable

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one row, a pair [key heads, length, dim] a layer."""


class Row:
    """One answer being made."""

    def __init__(self, prompt: Sequence[int] | Ids, sampler: Sampler, adapter: int = 0) -> None:
        self.prompt: Ids = np.asarray(prompt, dtype=np.int64)
        self.sampler = sampler
        self.adapter = adapter
        """Slot in the AdapterBank; 0 is the base model."""
        self.last = -1
        """The newest token; not in the cache yet."""


class _Planned(NamedTuple):
    row: Row
    prefix: Prefix | None
    covered: int
    """Tokens of the prompt that `prefix` holds."""


class Decoder:
    """The batch. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any, bank: AdapterBank, *, prefill_tokens: int, prefix_tokens: int) -> None:
        """
        Args:
            prefill_tokens: most prompt tokens (padding included) of one forward pass; a longer prompt goes alone.
            prefix_tokens: most tokens of shared prompt beginnings that are kept; 0 keeps none.
        """
        config = model.config.get_text_config()
        self.rows: list[Row] = []
        self._model = model
        self._bank = bank
        self._masks = masks_of(config)
        self._prefill_tokens = prefill_tokens
        self._prefixes = PrefixStore(prefix_tokens) if prefix_tokens else None
        self._layers = int(config.num_hidden_layers)
        self._cache = SlotCache(self._layers)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> None:
        """Prefill `rows` and add them to the batch, each with its first token in `last`."""
        for group in self._groups(self._plan(rows)):
            logits, layers = self._prefill([p.row.prompt[p.covered :] for p in group], group)
            for planned, token, own in zip(group, pick(logits, [p.row.sampler for p in group]), layers, strict=True):
                planned.row.last = token
                self._cache.join(_joined(planned, own))
                self.rows.append(planned.row)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row, in its `last`."""
        device = self._model.device
        self._cache.open_column()
        lengths = torch.tensor(self._cache.lengths, device=device)
        positions = (lengths - 1)[:, None]
        columns = torch.arange(int(max(self._cache.lengths)), device=device).expand(len(self.rows), -1)
        logits = self._forward(
            torch.tensor([[row.last] for row in self.rows], device=device),
            positions,
            self._masks.additive(positions, columns, columns < lengths[:, None], self._model.dtype),
            self._cache,
            [row.adapter for row in self.rows],
        )
        for row, token in zip(self.rows, pick(logits, [row.sampler for row in self.rows]), strict=True):
            row.last = token

    @torch.inference_mode()
    def remove(self, rows: Iterable[Row]) -> None:
        """Take rows out of the batch; those that are not in it are passed over."""
        gone = {id(row) for row in rows}
        for slot in range(len(self.rows) - 1, -1, -1):
            if id(self.rows[slot]) in gone:
                self._cache.leave(slot)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()

    def clear(self) -> None:
        """Drop all rows, as after a failed forward pass that may have left them inconsistent."""
        self.rows = []
        self._cache.release()

    def _plan(self, rows: Sequence[Row]) -> list[_Planned]:
        """Which kept beginning serves which row; computes those that are worth keeping from now on."""
        store = self._prefixes
        if store is None:
            return [_Planned(row, None, 0) for row in rows]
        store.see([row.prompt for row in rows], [row.adapter for row in rows])
        planned = []
        for row in rows:
            prefix, covered = store.best(row.prompt, row.adapter)
            shared = store.shared(row.prompt, row.adapter)
            if store.worth(shared, covered):
                beginning = _Planned(Row(row.prompt[:shared], row.sampler, row.adapter), prefix, covered)
                _, (own,) = self._prefill([beginning.row.prompt[covered:]], [beginning])
                prefix, covered = Prefix(beginning.row.prompt, row.adapter, _joined(beginning, own)), shared
                store.keep(prefix)
            planned.append(_Planned(row, prefix, covered))
        return planned

    def _groups(self, planned: Sequence[_Planned]) -> Iterable[list[_Planned]]:
        """Rows that are prefilled together: same beginning, similar length, within the token budget."""

        def beginning(p: _Planned) -> tuple[int, int]:
            return (id(p.prefix) if p.prefix else 0, p.covered)

        ordered = sorted(planned, key=lambda p: (*beginning(p), len(p.row.prompt)))
        for _, same in groupby(ordered, key=beginning):
            group: list[_Planned] = []
            for p in same:
                # Sorted by length, so the newest is the longest and sets the padded width.
                if group and (len(group) + 1) * (len(p.row.prompt) - p.covered) > self._prefill_tokens:
                    yield group
                    group = []
                group.append(p)
            if group:
                yield group

    def _prefill(self, suffixes: Sequence[Ids], group: Sequence[_Planned]) -> tuple[torch.Tensor, list[Layers]]:
        """Logits after each suffix [rows, vocabulary], and each row's keys and values of its suffix."""
        device = self._model.device
        prefix, covered = group[0].prefix, group[0].covered
        width = max(len(s) for s in suffixes)
        padding = [width - len(s) for s in suffixes]
        ids = torch.zeros((len(suffixes), width), dtype=torch.long)
        for i, suffix in enumerate(suffixes):
            ids[i, padding[i] :] = torch.from_numpy(suffix)
        pads = torch.tensor(padding, device=device)[:, None]
        positions = torch.arange(width, device=device)[None, :] - pads
        cache = Cache(layers=[DynamicLayer() for _ in range(self._layers)])
        if prefix is not None:
            for layer, (keys, values) in zip(cache.layers, prefix.layers, strict=True):
                layer.update(
                    keys[None, :, :covered].expand(len(suffixes), -1, -1, -1),
                    values[None, :, :covered].expand(len(suffixes), -1, -1, -1),
                )
        mask = None
        if prefix is not None or any(padding):
            before = torch.arange(covered, device=device).expand(len(suffixes), -1)
            columns = torch.cat([before, positions + covered], 1)
            present = torch.cat([torch.ones_like(before, dtype=torch.bool), positions >= 0], 1)
            mask = self._masks.additive(positions + covered, columns, present, self._model.dtype)
        logits = self._forward(
            ids.to(device), positions.clamp(min=0) + covered, mask, cache, [p.row.adapter for p in group]
        )
        rows = [
            [(layer.keys[i, :, covered + pad :], layer.values[i, :, covered + pad :]) for layer in cache.layers]
            for i, pad in enumerate(padding)
        ]
        return logits, rows

    def _forward(self, ids: Any, positions: Any, mask: Any, cache: Cache, adapters: list[int]) -> torch.Tensor:
        with self._bank.rows(adapters):
            output = self._model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


class Masks:
    """Attention masks in the form a model's forward takes them ready-made."""

    def __init__(self, kinds: Sequence[str], window: int | None, *, one: bool) -> None:
        self._kinds = kinds
        self._window = window
        self._one = one

    def additive(self, queries: Any, columns: Any, present: Any, dtype: torch.dtype) -> Any:
        """0 where a query may look, the lowest number elsewhere; [rows, 1, queries, columns], or a dict by layer kind.

        Args:
            queries: [rows, queries] positions in the text.
            columns: [rows, columns] positions in the text of the cached keys.
            present: [rows, columns], False for padding.
        """
        made = {kind: self._additive(kind, queries, columns, present, dtype) for kind in self._kinds}
        return made[self._kinds[0]] if self._one else made

    def _additive(self, kind: str, queries: Any, columns: Any, present: Any, dtype: torch.dtype) -> Any:
        distance = queries[:, :, None] - columns[:, None, :]
        allowed = (distance >= 0) & present[:, None, :]
        if kind == "sliding_attention":
            assert self._window is not None
            allowed &= distance < self._window
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        # The lowest number rather than -inf: a padding query sees nothing, and softmax over -inf alone is NaN.
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def masks_of(config: Any) -> Masks:
    """How the model of `config` takes its masks.

    Raises:
        EngineUnavailable: it has layers whose state is not keys and values by position (Mamba, linear attention ...).
    """
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if config.model_type in ONE_MASK or not kinds:
        return Masks(["full_attention" if window is None else "sliding_attention"], window, one=True)
    unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise EngineUnavailable(
            f"model type {config.model_type!r} has {', '.join(unknown)} layers, which the in-process engine cannot batch;"
            " use the vllm engine, or MODEL@URL"
        )
    return Masks(kinds, window, one=kinds == ["full_attention"])


ONE_MASK = ("mistral", "ministral3")
"""Models that name their layers' kinds in the config and still take one mask for all."""


def _joined(planned: _Planned, own: Layers) -> Layers:
    """A row's keys and values from column 0: its beginning's, then its own."""
    if planned.prefix is None:
        return own
    n = planned.covered
    return [
        (torch.cat([keys[:, :n], own_keys], 1), torch.cat([values[:, :n], own_values], 1))
        for (keys, values), (own_keys, own_values) in zip(planned.prefix.layers, own, strict=True)
    ]

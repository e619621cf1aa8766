"""A running batch on one model: rows are prefilled and join it, each step adds a token to every row, rows leave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from core.engines.kv import SlotCache
from core.engines.lora import AdapterBank
from core.engines.prefixes import Ids, Prefix, PrefixStore, common
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

    @property
    def rest(self) -> int:
        """Tokens of the prompt that are still to be computed."""
        return len(self.row.prompt) - self.covered

    def beginning(self, length: int) -> _Planned:
        """The first `length` tokens of the prompt as a prompt."""
        return self._replace(row=Row(self.row.prompt[:length], self.row.sampler, self.row.adapter))


class Decoder:
    """The batch. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any, bank: AdapterBank, *, prefill_tokens: int, prefix_tokens: int) -> None:
        """
        Args:
            prefill_tokens: most prompt tokens (padding included) of one forward pass.
            prefix_tokens: most tokens of shared prompt beginnings that are kept; 0 keeps none.
        """
        config = model.config.get_text_config()
        self.rows: list[Row] = []
        """Rows that `step` advances."""
        self._entering: list[_Planned] = []
        self._model = model
        self._bank = bank
        self._masks = masks_of(config)
        self._prefill_tokens = prefill_tokens
        self._prefixes = PrefixStore(prefix_tokens) if prefix_tokens else None
        self._layers = int(config.num_hidden_layers)
        self._cache = SlotCache(self._layers)

    @torch.inference_mode()
    def enter(self, rows: Sequence[Row]) -> None:
        """Take in rows that `prefill` will add to the batch. Computes the prompt beginnings worth keeping for them."""
        self._entering += self._plan(rows)

    @torch.inference_mode()
    def prefill(self) -> list[Row]:
        """One forward pass over prompts of rows that entered; returns those that joined, their first token in `last`.

        A prompt longer than the budget takes several calls, so rows that are being decoded wait for none of it long.
        """
        first = self._entering[0]
        if first.rest > self._prefill_tokens:
            self._entering[0] = self._extended(first, first.covered + self._prefill_tokens)
            return []
        group = self._group(self._entering)
        logits, layers = self._run_prompts(group)
        for planned, token, own in zip(group, pick(logits, [p.row.sampler for p in group]), layers, strict=True):
            planned.row.last = token
            self._cache.join(_joined(planned, own))
            self.rows.append(planned.row)
        self._entering = _without(self._entering, group)
        return [p.row for p in group]

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

    @property
    def entering(self) -> bool:
        """Whether rows wait for `prefill`."""
        return bool(self._entering)

    @torch.inference_mode()
    def remove(self, rows: Iterable[Row]) -> None:
        """Take rows out; those that are not in it are passed over."""
        gone = {id(row) for row in rows}
        self._entering = [p for p in self._entering if id(p.row) not in gone]
        for slot in range(len(self.rows) - 1, -1, -1):
            if id(self.rows[slot]) in gone:
                self._cache.leave(slot)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()

    def clear(self) -> None:
        """Drop all rows, as after a failed forward pass that may have left them inconsistent."""
        self._entering = []
        self.rows = []
        self._cache.release()

    def _plan(self, rows: Sequence[Row]) -> list[_Planned]:
        """Which kept beginning serves which row; computes those that are worth keeping from now on."""
        store = self._prefixes
        if store is None:
            return [_Planned(row, None, 0) for row in rows]
        store.see([row.prompt for row in rows], [row.adapter for row in rows])
        beginnings = _worth_keeping(rows, store)
        while beginnings:
            group = self._group(beginnings)
            for prefix in self._computed(group):
                store.keep(prefix)
            beginnings = _without(beginnings, group)
        return [_Planned(row, *store.best(row.prompt, row.adapter)) for row in rows]

    def _extended(self, planned: _Planned, length: int) -> _Planned:
        """`planned` with the keys and values of its first `length` tokens computed."""
        (prefix,) = self._computed([planned.beginning(length)])
        return _Planned(planned.row, prefix, length)

    def _computed(self, beginnings: Sequence[_Planned]) -> list[Prefix]:
        """The keys and values of whole prompts, to be other prompts' beginnings; as for `_run_prompts`."""
        _, layers = self._run_prompts(beginnings)
        return [Prefix(p.row.prompt, p.row.adapter, _joined(p, own)) for p, own in zip(beginnings, layers, strict=True)]

    def _group(self, waiting: Sequence[_Planned]) -> list[_Planned]:
        """Those of `waiting` to run with the first: on a beginning as long, nearest in length, within the token budget.

        Of several adapters too, whose beginnings are the same words read differently: apart, they would take turns.
        """
        first = waiting[0]
        same = [p for p in waiting if p.covered == first.covered]
        same.sort(key=lambda p: abs(p.rest - first.rest))
        group: list[_Planned] = []
        width = 0
        for p in same:
            width = max(width, p.rest)
            if group and (len(group) + 1) * width > self._prefill_tokens:
                break
            group.append(p)
        # Rows of one adapter side by side: what one core has read of it serves the next row.
        return sorted(group, key=lambda p: p.row.adapter)

    def _run_prompts(self, group: Sequence[_Planned]) -> tuple[torch.Tensor, list[Layers]]:
        """Logits after each prompt [rows, vocabulary], and each row's keys and values of what was not covered.

        The rows of `group` stand on beginnings of the same length. Prompts are padded on the left, so that the last column holds
        every row's last token.
        """
        device = self._model.device
        covered = group[0].covered
        width = max(p.rest for p in group)
        padding = [width - p.rest for p in group]
        ids = torch.zeros((len(group), width), dtype=torch.long)
        for i, p in enumerate(group):
            ids[i, padding[i] :] = torch.from_numpy(p.row.prompt[covered:])
        positions = (
            torch.arange(covered, covered + width, device=device) - torch.tensor(padding, device=device)[:, None]
        )
        cache = Cache(layers=[DynamicLayer() for _ in range(self._layers)])
        if covered:
            for number, layer in enumerate(cache.layers):
                layer.update(_beginnings(group, number, 0), _beginnings(group, number, 1))
        mask = None
        if covered or any(padding):
            before = torch.arange(covered, device=device).expand(len(group), -1)
            columns = torch.cat([before, positions], 1)
            present = torch.cat([torch.ones_like(before, dtype=torch.bool), positions >= covered], 1)
            mask = self._masks.additive(positions, columns, present, self._model.dtype)
        logits = self._forward(
            ids.to(device), positions.clamp(min=covered), mask, cache, [p.row.adapter for p in group]
        )
        rows = [
            [(layer.keys[i, :, covered + pad :], layer.values[i, :, covered + pad :]) for layer in cache.layers]
            for i, pad in enumerate(padding)
        ]
        return logits, rows

    def _forward(self, ids: Any, positions: Any, mask: Any, cache: Cache, adapters: list[int]) -> torch.Tensor:
        with self._bank.rows(adapters, ids.shape[1]):
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


def _worth_keeping(rows: Sequence[Row], store: PrefixStore) -> list[_Planned]:
    """The beginnings of `rows` to compute and keep, longest first; one that another contains is left to that."""
    found: list[_Planned] = []
    for row in rows:
        one = _Planned(row, *store.best(row.prompt, row.adapter))
        shared = store.shared(row.prompt, row.adapter)
        if store.worth(shared, one.covered):
            found.append(one.beginning(shared))
    found.sort(key=lambda p: -len(p.row.prompt))
    longest: list[_Planned] = []
    for one in found:
        ids, adapter = one.row.prompt, one.row.adapter
        if not any(p.row.adapter == adapter and common(ids, p.row.prompt) == len(ids) for p in longest):
            longest.append(one)
    return longest


def _without(planned: Sequence[_Planned], done: Sequence[_Planned]) -> list[_Planned]:
    gone = {id(p) for p in done}
    return [p for p in planned if id(p) not in gone]


def _beginnings(group: Sequence[_Planned], layer: int, which: int) -> torch.Tensor:
    """Keys (`which` 0) or values (1) of the rows' beginnings [rows, key heads, length, dim]; shared where all are one."""
    parts = [p.prefix.layers[layer][which][:, : p.covered] for p in group if p.prefix is not None]
    if all(p.prefix is group[0].prefix for p in group):
        return parts[0].expand(len(group), -1, -1, -1)
    return torch.stack(parts)


def _joined(planned: _Planned, own: Layers) -> Layers:
    """A row's keys and values from column 0: its beginning's, then its own."""
    if planned.prefix is None:
        return own
    n = planned.covered
    return [
        (torch.cat([keys[:, :n], own_keys], 1), torch.cat([values[:, :n], own_values], 1))
        for (keys, values), (own_keys, own_values) in zip(planned.prefix.layers, own, strict=True)
    ]

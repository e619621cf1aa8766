"""LoRA adapters side by side on one model: every row of a batch is answered by its own adapter.

PEFT can mix adapters in a batch too, but sets that up anew in every forward pass
and runs adapter after adapter in every layer, which a decode step of one token a
row cannot afford. The base model's weights are never touched, so base rows stay
exactly the base model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from core.engines.adapters import WEIGHTS, AdapterError, adapter_config
from core.engines.lowrank import PAGE, AdaptedModule, Choice, Part, Tables
from core.engines.packing import Packed, Product

UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "lora_bias",
    "layer_replication": "layer replication",
}
"""Settings of adapter_config.json that change more than a pair of matrices."""

IDLE = 16
"""Adapters that stay loaded though no row uses them: 10 MB each at rank 16 on a model of 135M parameters, 80 MB on 7B."""


class AdapterBank:
    """The adapters of one model by slot; slot 0 is the base model."""

    def __init__(self, model: nn.Module, model_name: str) -> None:
        self._model = model
        self._model_name = model_name
        self._device: Any = model.device
        self._slots: OrderedDict[tuple[str, int], int] = OrderedDict()
        """Least recently asked for first."""
        self._newest = 0
        """Never given twice, so that a beginning kept for an adapter that is gone is not taken for another's."""
        self._pages: dict[int, tuple[int, ...]] = {0: ()}
        self._free: list[int] = []
        self._room = 0
        self._choice = Choice(self._device)
        self._tables: dict[Product | str, Tables] = {}
        """Of packed modules by their product, of others by their name."""

    def slot(self, folder: str) -> int:
        """The slot of the adapter in `folder`, loading it when it is new or its weights have changed.

        Raises:
            AdapterError: no readable LoRA adapter, or one of another base model.
        """
        path = Path(folder)
        try:
            changed = (path / WEIGHTS).stat().st_mtime_ns
        except OSError as exc:
            raise AdapterError(f"{folder}: no adapter there ({WEIGHTS}: {exc.strerror})") from exc
        key = (str(path.resolve()), changed)
        if key not in self._slots:
            self._slots[key] = self._add(read_adapter(path, self._model_name), folder)
        self._slots.move_to_end(key)
        return self._slots[key]

    @property
    def room(self) -> int:
        """Pages of PAGE ranks that the tables hold."""
        return self._room

    def trim(self, in_use: Collection[int]) -> None:
        """Forget adapters not `in_use`, but for the IDLE that were asked for last."""
        idle = [key for key, slot in self._slots.items() if slot not in in_use]
        for key in idle[: max(len(idle) - IDLE, 0)]:
            pages = self._pages.pop(self._slots.pop(key))
            for tables in self._tables.values():
                tables.empty(pages)
            self._free += pages

    @contextmanager
    def rows(self, slots: Sequence[int], tokens: int) -> Iterator[None]:
        """Within the block, row i of a forward pass over `tokens` tokens a row is answered by the adapter `slots[i]`."""
        self._choice.choose([self._pages[slot] for slot in slots], tokens)
        try:
            yield
        finally:
            self._choice.choose((), 1)

    def _add(self, parts: dict[str, Part], folder: str) -> int:
        for name, part in parts.items():
            self._check(name, part, folder)
        pages = self._taken(max(-(-len(part.down) // PAGE) for part in parts.values()))
        for name, part in parts.items():
            tables, place = self._place(name, part)
            tables.write(place, pages, part)
        self._newest += 1
        self._pages[self._newest] = pages
        return self._newest

    def _check(self, name: str, part: Part, folder: str) -> None:
        try:
            module = self._model.get_submodule(name)
        except AttributeError as exc:
            raise AdapterError(
                f"{folder}: adapts {name!r}, which model {self._model_name} does not have; it belongs to another model"
            ) from exc
        if isinstance(module, nn.Embedding):
            raise AdapterError(
                f"{folder}: adapts an embedding ({name}); merge the adapter into a full model to serve it"
            )
        weight: Any = module.weight
        outputs, inputs = part.up.shape[0], part.down.shape[1]
        if {outputs, inputs} != set(weight.shape):
            raise AdapterError(
                f"{folder}: a change of {outputs} x {inputs} for a weight of {weight.shape[0]} x {weight.shape[1]};"
                " the adapter belongs to another model"
            )

    def _taken(self, count: int) -> tuple[int, ...]:
        """That many empty pages; the tables grow by a quarter at least, so that growth stays cheap."""
        if len(self._free) < count:
            room = max(self._room + count - len(self._free), self._room * 5 // 4)
            for tables in self._tables.values():
                tables.grow(room)
            self._free += range(self._room, room)
            self._room = room
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def _place(self, name: str, part: Part) -> tuple[Tables, int]:
        """The tables that hold the module's pairs, and its number in them."""
        module: Any = self._model.get_submodule(name)
        packed = isinstance(module, Packed)
        key, place = (module.product, module.place) if packed else (name, 0)
        if key not in self._tables:
            outputs = module.product.widths if packed else (part.up.shape[0],)
            weight = module.weight
            tables = Tables(self._choice, name, part.down.shape[1], outputs, weight.dtype, self._device)
            tables.grow(self._room)
            if packed:
                module.product.change = tables.change
            else:
                parent, _, child = name.rpartition(".")
                setattr(self._model.get_submodule(parent), child, AdaptedModule(module, tables))
            self._tables[key] = tables
        return self._tables[key], place


def read_adapter(folder: Path, model_name: str) -> dict[str, Part]:
    """The low-rank pairs in a PEFT LoRA folder, by module name.

    Raises:
        AdapterError: not a LoRA adapter of `model_name` that can be served beside others.
    """
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    adapter_config(folder, model_name)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as exc:
        raise AdapterError(f"{folder}: not a readable PEFT adapter ({exc})") from exc
    special = [text for field, text in UNSUPPORTED.items() if getattr(config, field, None)]
    if special or config.bias != "none":
        what = ", ".join(special) or f"bias={config.bias}"
        raise AdapterError(f"{folder}: uses {what}; merge it into a full model (PEFT's merge_and_unload) to serve it")
    parts = {}
    for key, down in tensors.items():
        name, found, _ = key.removeprefix("base_model.model.").partition(".lora_A.weight")
        if not found:
            if ".lora_B.weight" in key:
                continue
            raise AdapterError(f"{folder}: holds {key!r}, which is not a LoRA matrix of a linear layer")
        up = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if up is None:
            raise AdapterError(f"{folder}: damaged ({key!r} has no lora_B)")
        rank = down.shape[0]
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
        scaling = alpha / (rank**0.5 if config.use_rslora else rank)
        parts[name] = Part(down, up.float() * scaling)
    if not parts:
        raise AdapterError(f"{folder}: the adapter is empty")
    return parts

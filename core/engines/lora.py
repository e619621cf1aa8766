"""LoRA adapters side by side on one model: every row of a batch is answered by its own adapter.

PEFT can mix adapters in a batch too, but sets that up anew in every forward pass
and runs adapter after adapter in every layer, which a decode step of one token a
row cannot afford. The base model's weights are never touched, so base rows stay
exactly the base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from core.engines.adapters import WEIGHTS, AdapterError, adapter_config
from core.errors import EngineError

UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "lora_bias",
    "layer_replication": "layer replication",
}
"""Settings of adapter_config.json that change more than a pair of matrices."""


class Part(NamedTuple):
    """One module's low-rank pair, the scaling already in `up`."""

    down: torch.Tensor
    """[rank, inputs]."""
    up: torch.Tensor
    """[outputs, rank]."""


class AdapterBank:
    """The adapters of one model by slot; slot 0 is the base model."""

    def __init__(self, model: nn.Module, model_name: str) -> None:
        self._model = model
        self._model_name = model_name
        self._device: Any = model.device
        self._slots: dict[tuple[str, int], int] = {}
        self._wrapped: dict[str, _LoraModule] = {}
        self._selection = _Selection()

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
        return self._slots[key]

    def _add(self, parts: dict[str, Part], folder: str) -> int:
        slot = len(self._slots) + 1
        for name, part in parts.items():
            if name not in self._wrapped:
                self._wrap(name, part, folder)
            self._wrapped[name].set(slot, part, self._device, folder)
        return slot

    def _wrap(self, name: str, part: Part, folder: str) -> None:
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
        parent, _, child = name.rpartition(".")
        wrapped = _LoraModule(module, self._selection, name)
        setattr(self._model.get_submodule(parent), child, wrapped)
        self._wrapped[name] = wrapped

    @contextmanager
    def rows(self, slots: list[int]) -> Iterator[None]:
        """Within the block, row i of a forward pass is answered by the adapter in `slots[i]`."""
        self._selection.choose(slots)
        yield


class _Selection:
    """Which adapter answers which row, shared by all wrapped modules."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.used: tuple[int, ...] = ()
        """The adapters among them, each once."""
        self.mixed = False
        """Whether rows differ in what answers them."""
        self._masks: dict[tuple[tuple[int, int], ...], torch.Tensor] = {}

    def choose(self, slots: list[int]) -> None:
        if slots != self.slots:
            self.slots = list(slots)
            self.used = tuple(sorted(set(slots) - {0}))
            self.mixed = len(set(slots)) > 1
            self._masks = {}

    def mask(self, ranks: tuple[tuple[int, int], ...], like: torch.Tensor) -> torch.Tensor:
        """[rows, sum of ranks]: 1 where a column belongs to the row's adapter; `ranks` are (slot, rank) in order."""
        if ranks not in self._masks:
            owners = torch.tensor([slot for slot, rank in ranks for _ in range(rank)])
            mask = torch.tensor(self.slots)[:, None] == owners
            self._masks[ranks] = mask.to(like.device, like.dtype)
        return self._masks[ranks]


class _Stack(NamedTuple):
    """The pairs of several adapters side by side."""

    ranks: tuple[tuple[int, int], ...]
    """(slot, rank) in order."""
    down: torch.Tensor
    """[inputs, sum of ranks]."""
    up: torch.Tensor
    """[sum of ranks, outputs]."""


class _LoraModule(nn.Module):
    """A module plus, for each row, its adapter's low-rank change."""

    def __init__(self, base: nn.Module, selection: _Selection, name: str) -> None:
        super().__init__()
        self.base = base
        self._selection = selection
        self._name = name
        self._parts: dict[int, Part] = {}
        self._stacked_for: tuple[int, ...] = ()
        self._stack: _Stack | None = None

    def set(self, slot: int, part: Part, device: Any, folder: str) -> None:
        weight: Any = self.base.weight
        outputs, inputs = part.up.shape[0], part.down.shape[1]
        if {outputs, inputs} != set(weight.shape):
            raise AdapterError(
                f"{folder}: a change of {outputs} x {inputs} for a weight of {weight.shape[0]} x {weight.shape[1]};"
                " the adapter belongs to another model"
            )
        self._parts[slot] = Part(part.down.to(device, weight.dtype), part.up.to(device, weight.dtype))

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self.base(x, *args, **kwargs)
        used = self._selection.used
        if not used:
            return output
        if x.ndim != 3 or x.shape[0] != len(self._selection.slots):
            raise EngineError(f"{self._name} sees tokens without their rows, so adapters cannot be mixed in it")
        if x.shape[1] == 1:
            return self._decoded(x, output)
        return self._prefilled(x, output)

    def _decoded(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """One token a row: all adapters' products at once, the foreign ones set to zero before the way up.

        More arithmetic than each row needs, and far less to read: each adapter once, not once a row.
        """
        if self._stacked_for != self._selection.used:
            self._stacked_for = self._selection.used
            self._stack = self._stacked()
        if self._stack is None:
            return output
        hidden = x.flatten(0, 1) @ self._stack.down
        if self._selection.mixed:
            hidden *= self._selection.mask(self._stack.ranks, x)
        output.flatten(0, 1).addmm_(hidden, self._stack.up)
        return output

    def _stacked(self) -> _Stack | None:
        slots = [slot for slot in self._selection.used if slot in self._parts]
        if not slots:
            return None
        parts = [self._parts[slot] for slot in slots]
        ranks = tuple((slot, len(part.down)) for slot, part in zip(slots, parts, strict=True))
        down = torch.cat([part.down for part in parts]).T.contiguous()
        return _Stack(ranks, down, torch.cat([part.up.T for part in parts]))

    def _prefilled(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Many tokens a row: each adapter on its own rows."""
        for slot in self._selection.used:
            part = self._parts.get(slot)
            if part is None:
                continue
            rows = [i for i, chosen in enumerate(self._selection.slots) if chosen == slot]
            output[rows] += (x[rows] @ part.down.T) @ part.up.T
        return output


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

"""Low-rank changes of several adapters in one forward pass.

The pairs of all adapters lie in one table a module, in pages of PAGE ranks, so nothing is copied when rows join or leave
the batch. A decode step has one token a row: what it adds to a row is a weighted sum of table lines, which is what an
embedding bag computes, and only lines of the row's own adapter are read. On a CPU that is quicker than a product over
all adapters behind a mask: an eighth of the arithmetic with eight adapters, and oneDNN takes 10 us to start anything
(16 rows, rank 16, bf16, weights not in the cache: way up to 1536 outputs 26 against 36 us, to 576 11 against 22).
Modules that read the same input, as q, k and v do, go down together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from core.engines.packing import PackedLinear
from core.errors import EngineError

PAGE = 16
"""Ranks of a page; an adapter of a larger rank takes several, one of a smaller rank leaves the rest zero."""


class Part(NamedTuple):
    """One module's low-rank pair, the scaling already in `up`."""

    down: torch.Tensor
    """[rank, inputs]."""
    up: torch.Tensor
    """[outputs, rank]."""


class Choice:
    """Which pages answer which row of the coming forward pass, the same for all modules."""

    def __init__(self, device: Any) -> None:
        self.rows: tuple[tuple[int, ...], ...] = ()
        """The pages of each row; none for the base model."""
        self.tokens = 1
        """Tokens a row."""
        self.adapted = False
        """Whether any row has an adapter."""
        self.bags = Bags((), device)
        self._device = device

    def choose(self, rows: Sequence[tuple[int, ...]], tokens: int) -> None:
        """Row i of a pass over `tokens` tokens a row is answered by the pages `rows[i]`."""
        self.rows, self.tokens = tuple(rows), tokens
        self.adapted = any(rows)
        if self.adapted and self.bags.rows != self.rows:
            self.bags = Bags(self.rows, self._device)


class Bags:
    """What the rows look up: on the way down a bag is one page of one row, on the way up it is one row."""

    def __init__(self, rows: tuple[tuple[int, ...], ...], device: Any) -> None:
        self.rows = rows
        self.page = torch.tensor([page for pages in rows for page in pages], dtype=torch.int32, device=device)
        """[bags]."""
        self.row = torch.tensor(
            [row for row, pages in enumerate(rows) for _ in pages], dtype=torch.int32, device=device
        )
        """[bags], rising."""
        self.one_each = all(len(pages) == 1 for pages in rows)
        self.up = self._lines(PAGE)
        before = torch.tensor([0, *(len(pages) * PAGE for pages in rows[:-1])], dtype=torch.int32, device=device)
        self.up_starts = before.cumsum(0, dtype=torch.int32)
        self._down: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def down(self, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The lines of all bags one after the other, and where each begins, in a table of `inputs` lines a page."""
        if inputs not in self._down:
            starts = torch.arange(len(self.page), dtype=torch.int32, device=self.page.device) * inputs
            self._down[inputs] = (self._lines(inputs), starts)
        return self._down[inputs]

    def _lines(self, size: int) -> torch.Tensor:
        return (self.page[:, None] * size + torch.arange(size, dtype=torch.int32, device=self.page.device)).flatten()


class Tables:
    """The pairs of modules that read the same input."""

    def __init__(self, choice: Choice, inputs: int, dtype: torch.dtype, device: Any) -> None:
        self._choice = choice
        self._inputs = inputs
        self._down = torch.zeros((0, inputs, 0, PAGE), dtype=dtype, device=device)
        """[pages, inputs, modules, PAGE]."""
        self._lines = self._down.view(0, 0)
        """The same as [pages x inputs, modules x PAGE]."""
        self._ups: list[torch.Tensor] = []
        """[pages x PAGE, outputs] of each module."""
        self._changed = self._by_bags if self._down.device.type == "cpu" else self._by_products
        self._input: torch.Tensor | None = None
        self._hidden: Any = None

    def join(self, outputs: int, pages: int) -> int:
        """The place of one more module."""
        self._ups.append(self._down.new_zeros((0, outputs)))
        self.grow(pages)
        return len(self._ups) - 1

    def grow(self, pages: int) -> None:
        """Make room for that many pages of all modules."""
        old = self._down
        self._down = old.new_zeros((pages, self._inputs, len(self._ups), PAGE))
        self._down[: old.shape[0], :, : old.shape[2]] = old
        self._lines = self._down.view(pages * self._inputs, len(self._ups) * PAGE)
        for place, up in enumerate(self._ups):
            self._ups[place] = up.new_zeros((pages * PAGE, up.shape[1]))
            self._ups[place][: len(up)] = up

    def write(self, place: int, pages: Sequence[int], part: Part) -> None:
        """Put a module's pair into empty pages."""
        for page, down, up in zip(pages, torch.split(part.down, PAGE), torch.split(part.up.T, PAGE), strict=False):
            self._down[page, :, place, : len(down)] = down.T
            self._ups[place][page * PAGE : page * PAGE + len(up)] = up

    def empty(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._down[page] = 0
            for up in self._ups:
                up[page * PAGE : (page + 1) * PAGE] = 0

    def forget(self) -> None:
        """Let go of the forward pass that is over."""
        self._input = self._hidden = None

    def changed(self, place: int, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output`, a module's for `x`, with each row's change added in place."""
        return (self._prefilled if self._choice.tokens > 1 else self._changed)(place, x, output)

    def _by_bags(self, place: int, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        bags = self._choice.bags
        if x is not self._input:
            lines, starts = bags.down(self._inputs)
            weights = x if bags.one_each else x.index_select(0, bags.row)
            hidden = _bag(self._lines, lines, starts, weights.reshape(-1))
            self._input, self._hidden = x, [own.flatten() for own in hidden.chunk(len(self._ups), 1)]
        return output.add_(_bag(self._ups[place], bags.up, bags.up_starts, self._hidden[place]).view(output.shape))

    def _by_products(self, place: int, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The same on a graphics card, where a bag's long sum is slow and the products of all pages are not."""
        bags, rows = self._choice.bags, len(x)
        if x is not self._input:
            made = torch.matmul(x.flatten(0, 1), self._down.flatten(2))
            self._input, self._hidden = x, made[bags.page, bags.row].view(len(bags.page), -1, PAGE)
        own = x.new_zeros((rows, len(self._down), PAGE))
        own[bags.row, bags.page] = self._hidden[:, place]
        output.view(rows, -1).addmm_(own.flatten(1), self._ups[place])
        return output

    def _prefilled(self, place: int, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Many tokens a row: products of each row with its own pages."""
        bags = self._choice.bags
        if x is not self._input:
            own = x if bags.one_each else x.index_select(0, bags.row)
            hidden = torch.bmm(own, self._down.flatten(2).index_select(0, bags.page))
            self._input, self._hidden = x, hidden.chunk(len(self._ups), -1)
        ups = self._ups[place].view(-1, PAGE, output.shape[-1]).index_select(0, bags.page)
        if bags.one_each:
            return output.baddbmm_(self._hidden[place], ups)
        return output.index_add_(0, bags.row, torch.bmm(self._hidden[place], ups))


def _bag(table: torch.Tensor, lines: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sums of weighted table lines, one a bag; zeros for an empty bag."""
    sums: torch.Tensor = torch.embedding_bag(table, lines, starts, False, 0, False, weights, False)[0]
    return sums


class AdaptedModule(nn.Module):
    """A linear module plus, for each row, its adapter's low-rank change."""

    def __init__(self, base: nn.Module, name: str, choice: Choice, tables: Tables, place: int) -> None:
        super().__init__()
        self.base = base
        self.tables = tables
        self.place = place
        self._name = name
        self._choice = choice
        # nn.Module's lookup of a submodule and its call take as long as a small product.
        self._run = base.forward if isinstance(base, PackedLinear) else base.__call__

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self._run(x, *args, **kwargs)
        choice = self._choice
        if not choice.adapted:
            return output
        if x.ndim != 3 or x.shape[0] != len(choice.rows) or x.shape[1] != choice.tokens:
            raise EngineError(f"{self._name} sees tokens without their rows, so adapters cannot be mixed in it")
        return self.tables.changed(self.place, x, output)


@torch.inference_mode()
def readers(model: Any) -> dict[str, int]:
    """A number for every linear module, the same for neighbours that read the same input; found by one forward pass."""
    numbers: dict[tuple[str, int], int] = {}
    inputs: list[torch.Tensor] = []  # alive until the end, so that none is taken for another
    found: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.append(args[0])
            found[name] = numbers.setdefault((name.rpartition(".")[0], id(args[0])), len(numbers))

        return hook

    linear = [(name, module) for name, module in model.named_modules() if _is_linear(module)]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in linear]
    try:
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)

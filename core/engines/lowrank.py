"""Low-rank changes of several adapters in one forward pass.

The pairs of all adapters lie in one table a module, in pages of PAGE ranks, so nothing is copied when rows join or leave
the batch. A decode step has one token a row: what it adds to a row is a weighted sum of table lines, which is what an
embedding bag computes, and only lines of the row's own adapter are read. On a CPU that is quicker than a product over
all adapters behind a mask: an eighth of the arithmetic with eight adapters, and oneDNN takes 10 us to start anything
(16 rows, rank 16, bf16, weights not in the cache: way up to 1536 outputs 26 against 36 us, to 576 11 against 22).
Modules that read the same input (core.engines.packing) go down together and up together: a line on the way up is cut into
pieces of one width, which belong to one module each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

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
    """What the rows look up: on the way down a bag is one page of one row, on the way up one piece of one row."""

    def __init__(self, rows: tuple[tuple[int, ...], ...], device: Any) -> None:
        self.rows = rows
        self.page = torch.tensor([page for pages in rows for page in pages], dtype=torch.int32, device=device)
        """[bags]."""
        self.row = torch.tensor(
            [row for row, pages in enumerate(rows) for _ in pages], dtype=torch.int32, device=device
        )
        """[bags], rising."""
        self.one_each = all(len(pages) == 1 for pages in rows)
        self._down: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._up: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}

    def down(self, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The lines of all bags one after the other, and where each begins, in a table of `inputs` lines a page."""
        if inputs not in self._down:
            starts = torch.arange(len(self.page), dtype=torch.int32, device=self.page.device) * inputs
            lines = self.page[:, None] * inputs + torch.arange(inputs, dtype=torch.int32, device=self.page.device)
            self._down[inputs] = (lines.flatten(), starts)
        return self._down[inputs]

    def up(self, pieces: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The lines of all bags, row by row and piece by piece, where each begins, and what weighs them.

        Args:
            pieces: the module of each piece of a line, rising.

        Returns:
            The last is the order in which PAGE weights each are taken from [bags x modules]; None: as they are.
        """
        if pieces not in self._up:
            modules, count, device = pieces[-1] + 1, len(pieces), self.page.device
            found: list[tuple[int, int]] = []
            starts: list[int] = []
            bag = 0
            for pages in self.rows:
                for piece, module in enumerate(pieces):
                    starts.append(len(found) * PAGE)
                    for at, page in enumerate(pages, bag):
                        found.append((page * PAGE * count + piece, at * modules + module))
                bag += len(pages)
            first, order = torch.tensor(found, dtype=torch.int32, device=device).T
            lines = first[:, None] + torch.arange(PAGE, dtype=torch.int32, device=device) * count
            same = torch.equal(order, torch.arange(len(order), dtype=torch.int32, device=device))
            begins = torch.tensor(starts, dtype=torch.int32, device=device)
            self._up[pieces] = (lines.flatten(), begins, None if same else order.contiguous())
        return self._up[pieces]


class Tables:
    """The pairs of modules that read the same input, whose outputs lie side by side."""

    def __init__(
        self, choice: Choice, name: str, inputs: int, outputs: Sequence[int], dtype: torch.dtype, device: Any
    ) -> None:
        """
        Args:
            name: as errors show the modules.
            outputs: of each module.
        """
        self._choice = choice
        self._name = name
        self._inputs = inputs
        self._outputs = list(outputs)
        width = math.gcd(*outputs)
        self._pieces = tuple(place for place, own in enumerate(outputs) for _ in range(own // width))
        """The module of each piece of the outputs, `width` wide."""
        self._down = torch.zeros((0, inputs, len(outputs), PAGE), dtype=dtype, device=device)
        """[pages, inputs, modules, PAGE]."""
        self._up = self._down.new_zeros((0, sum(outputs)))
        """[pages x PAGE, outputs of all modules]."""
        self._decoded = self._by_bags if self._down.device.type == "cpu" else self._by_products

    def grow(self, pages: int) -> None:
        """Make room for that many pages."""
        down, up = self._down, self._up
        self._down = down.new_zeros((pages, *down.shape[1:]))
        self._down[: len(down)] = down
        self._up = up.new_zeros((pages * PAGE, up.shape[1]))
        self._up[: len(up)] = up

    def write(self, place: int, pages: Sequence[int], part: Part) -> None:
        """Put the pair of module number `place` into empty pages."""
        own = torch.split(self._up, self._outputs, 1)[place]
        for page, down, up in zip(pages, torch.split(part.down, PAGE), torch.split(part.up.T, PAGE), strict=False):
            self._down[page, :, place, : len(down)] = down.T
            own[page * PAGE : page * PAGE + len(up)] = up

    def empty(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._down[page] = 0
            self._up[page * PAGE : (page + 1) * PAGE] = 0

    def change(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """Add each row's change to `output`, what the modules made of `x`.

        Args:
            x: [rows, tokens, inputs].
            output: [rows, tokens, outputs of all modules], contiguous.

        Raises:
            EngineError: the rows of `x` are not those that were chosen.
        """
        choice = self._choice
        if not choice.adapted:
            return
        if x.ndim != 3 or x.shape[0] != len(choice.rows) or x.shape[1] != choice.tokens:
            raise EngineError(f"{self._name} sees tokens without their rows, so adapters cannot be mixed in it")
        (self._prefilled if choice.tokens > 1 else self._decoded)(x, output)

    def _by_bags(self, x: torch.Tensor, output: torch.Tensor) -> None:
        bags = self._choice.bags
        weights = x if bags.one_each else x.index_select(0, bags.row)
        table = self._down.view(-1, len(self._outputs) * PAGE)
        hidden = _bag(table, *bags.down(self._inputs), weights.reshape(-1))
        lines, starts, order = bags.up(self._pieces)
        if order is not None:
            hidden = hidden.view(-1, PAGE).index_select(0, order)
        table = self._up.view(-1, self._up.shape[1] // len(self._pieces))
        output.add_(_bag(table, lines, starts, hidden.view(-1)).view(output.shape))

    def _by_products(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """The same on a graphics card, where a bag's long sum is slow and the products of all pages are not."""
        bags, rows = self._choice.bags, len(x)
        made = torch.matmul(x.flatten(0, 1), self._down.flatten(2))
        hidden = made[bags.page, bags.row].view(len(bags.page), -1, PAGE)
        for place, (own, up) in enumerate(zip(*self._by_module(output.view(rows, -1)), strict=True)):
            chosen = x.new_zeros((rows, len(self._down), PAGE))
            chosen[bags.row, bags.page] = hidden[:, place]
            own.addmm_(chosen.flatten(1), up)

    def _prefilled(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """Many tokens a row: products of each row with its own pages."""
        bags = self._choice.bags
        own_x = x if bags.one_each else x.index_select(0, bags.row)
        hidden = torch.bmm(own_x, self._down.flatten(2).index_select(0, bags.page))
        for place, (own, up) in enumerate(zip(*self._by_module(output), strict=True)):
            part = hidden[..., place * PAGE : (place + 1) * PAGE]
            ups = up.view(-1, PAGE, up.shape[-1]).index_select(0, bags.page)
            if bags.one_each:
                own.baddbmm_(part, ups)
            else:
                own.index_add_(0, bags.row, torch.bmm(part, ups))

    def _by_module(self, output: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Views of each module's output, and of its part of the way up [pages x PAGE, outputs]."""
        return torch.split(output, self._outputs, -1), torch.split(self._up, self._outputs, 1)


def _bag(table: torch.Tensor, lines: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sums of weighted table lines, one a bag; zeros for an empty bag."""
    sums: torch.Tensor = torch.embedding_bag(table, lines, starts, False, 0, False, weights, False)[0]
    return sums


class AdaptedModule(nn.Module):
    """A linear module that is not packed, plus, for each row, its adapter's low-rank change."""

    def __init__(self, base: nn.Module, tables: Tables) -> None:
        super().__init__()
        self.base = base
        self.weight: Any = base.weight
        self._tables = tables

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self.base(x, *args, **kwargs)
        self._tables.change(x, output)
        return output

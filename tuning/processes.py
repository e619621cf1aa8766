"""Several processes of one training, as `torchrun` and `accelerate launch` start them: whose rows, whose word, whose sum.

Each computes its share of a step's rows. The gradients are added up over all, and what one process alone can know (how
long a step took, whether Ctrl-C was pressed) is the first one's word, so that all take the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from core.errors import ConfigError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes of a training, seen from one of them; by default it is alone."""

    size: int = 1
    rank: int = 0
    shards: bool = False
    """Whether each holds a part of the frozen weights only; all then have to run the model equally often."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`; each is in one process's part."""
        return items[self.rank :: self.size]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over all processes, the same bits in each."""
        if self.size > 1:
            from accelerate.utils import reduce

            tensor.copy_(reduce(tensor, "sum"))

    def most(self, passes: int) -> int:
        """How often the process with the most passes through the model will run it, of which `passes` are this one's.

        Where the weights are shared out none can run it alone; without that, `passes`.
        """
        if not self.shards:
            return passes
        from accelerate.utils import gather_object

        most: int = max(gather_object([passes]))
        return most

    def agreed(self, value: T) -> T:
        """The first process's `value`."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        told = [value]
        broadcast_object_list(told, from_process=0)
        return told[0]


def started() -> int:
    """How many processes a launcher started; 1 without one. Reads the environment alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def team(device: str, shards: bool = False) -> Iterator[Team]:
    """This process's team for the block; all but the first are silent in it.

    Args:
        device: as in a recipe; on a GPU each process has its own, by LOCAL_RANK.
        shards: each is to hold a part of the frozen weights only.

    Raises:
        ConfigError: fewer GPUs than processes.
    """
    if started() == 1:
        yield Team(shards=shards)
        return
    import torch
    from accelerate import PartialState

    on_gpu = device != "cpu" and torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_gpu and torch.cuda.device_count() < local:
        raise ConfigError(
            f"{local} processes for {torch.cuda.device_count()} GPUs; start one a GPU (--nproc_per_node), or --device cpu"
        )
    state = PartialState(cpu=not on_gpu)
    mine = Team(state.num_processes, state.process_index, shards)
    try:
        if mine.leads:
            yield mine
        else:
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
                yield mine
    finally:
        state.destroy_process_group()

"""Small work kept off the thread pool: what a single text takes is less than several threads spend on meeting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's CPU work of the block, in this thread, runs on it alone. Other threads keep theirs.

    A server answers from as many threads as there are requests, beside the model's own: a team of threads for each
    would wait for cores that the others hold (a query's embedding on two busy cores: 12.9 ms in the median with two
    threads, 8.1 with one).
    """
    import torch

    # torch sets a thread's number at its first use there, over what is set here.
    torch.get_num_threads()
    with _openmp().limit(limits=1):
        yield


@cache
def _openmp() -> Any:
    """The OpenMP runtimes of this process, whose number of threads is each thread's own. Finding them takes 15 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")

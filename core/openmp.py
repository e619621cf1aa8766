"""OpenMP's threads, with which torch computes on a CPU: one thread for small work, and no team that outlives its work.

OpenMP keeps a team of threads for every thread that has ever computed in parallel. GNU's counts them all: once they
outnumber the processors, each team sleeps between two parallel sections instead of staying awake for a moment, and to
wake takes longer than a small product. On two cores a decode step of 16 rows took 30 ms instead of 22, and with eight
adapters 49 instead of 28, only because the thread that had loaded the model still had its team.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_PAUSE_HARD = 2
"""omp_pause_hard of OpenMP 5.0, section 2.4.1: let everything go, to be made anew when it is needed."""


@contextmanager
def brief_team() -> Iterator[None]:
    """The calling thread's team, if it has one by the end of the block, ends with it. 50 us; the next work makes it anew.

    For whoever computes now and then in a process where another thread computes steadily. Also a decorator.
    """
    try:
        yield
    finally:
        pause: Any = _pause_resources()
        if pause is not None:
            pause(_PAUSE_HARD)


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


def _pause_resources() -> Any:
    """OpenMP's omp_pause_resource_all as torch has loaded it; None where there is none."""
    try:
        return ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # no such function; Windows has no CDLL(None)
        return None


@cache
def _openmp() -> Any:
    """The OpenMP runtimes of this process, whose number of threads is each thread's own. Finding them takes 15 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")

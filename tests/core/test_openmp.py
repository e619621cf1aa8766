"""Small work keeps to its thread, and no team of threads outlives its work."""

import sys
import threading
from pathlib import Path

import pytest
import torch

from core.openmp import brief_team, one_thread


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_block_has_one_thread_and_gives_back_what_there_was(two_threads):
    with one_thread():
        inside = torch.get_num_threads()
    assert (inside, torch.get_num_threads()) == (1, 2)


def test_a_thread_that_never_asked_torch_before_is_held_to_one_too(two_threads):
    seen = []

    def work():
        with one_thread():
            torch.ones(3) @ torch.ones(3)
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_another_thread_keeps_its_number_meanwhile(two_threads):
    seen = []
    with one_thread():
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [2]


def test_an_error_in_the_block_does_not_keep_it_at_one(two_threads):
    with pytest.raises(ValueError, match="mine"), one_thread():
        raise ValueError("mine")
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_brief_team_ends_with_its_work(two_threads):
    left = []

    def threads():
        return {task.name for task in Path("/proc/self/task").iterdir()}

    def work():
        before = threads()
        for _ in range(2):  # a team is made anew
            with brief_team():
                torch.ones(400_000).sin()
                team = threads() - before
            left.append((len(team), len(team & threads())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert left == [(1, 0), (1, 0)]

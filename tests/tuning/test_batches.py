from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuning.batches import plan_epoch, shared_prefix, split
from tuning.examples import Example

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(st.integers(1, 200), st.integers(1, 32), st.integers(0, 5))
def test_an_epoch_sees_every_row_once(count: int, rows: int, seed: int) -> None:
    steps = plan_epoch(count, rows, seed, 0)
    assert sorted(i for step in steps for i in step) == list(range(count))
    assert all(len(step) <= rows for step in steps)


@given(lengths, st.integers(1, 2048))
def test_a_forward_pass_keeps_to_its_token_budget(lengths: list[int], tokens: int) -> None:
    for rows in split(range(len(lengths)), lengths, tokens):
        assert len(rows) == 1 or sum(lengths[i] for i in rows) <= tokens


def test_the_order_is_fixed_by_seed_and_epoch() -> None:
    assert plan_epoch(100, 8, 1, 0) == plan_epoch(100, 8, 1, 0)
    assert plan_epoch(100, 8, 1, 0) != plan_epoch(100, 8, 1, 1)
    assert plan_epoch(100, 8, 1, 0) != plan_epoch(100, 8, 2, 0)


def test_the_shared_prefix_ends_before_the_shortest_prompt_does() -> None:
    same = Example("a", (1, 2, 3, 4, 9), 4)
    assert shared_prefix([same, same]) == 3
    assert shared_prefix([same, Example("b", (1, 2, 7, 4, 9), 4)]) == 2
    assert shared_prefix([same, Example("b", (5, 2, 3, 4, 9), 4)]) == 0

"""Which token is picked."""

from __future__ import annotations

import pytest
import torch

from core.engines.sampling import Sampler, pick
from core.types import Sampling

LOGITS = torch.tensor([[0.0, 2.0, 1.0, -1.0]])


def _draws(sampling: Sampling, count: int, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler(sampling)
    return [pick(logits, [sampler])[0] for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_takes_the_first_of_the_best(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0] * 20_000, [5.0, 3.0, 3.0, 2.0] * 20_000], dtype=dtype)
    assert pick(logits, [Sampler(Sampling())] * 2) == [1, 0]


def test_a_seed_repeats_its_draws() -> None:
    warm = Sampling(temperature=1.0, seed=3)
    assert _draws(warm, 50) == _draws(warm, 50)
    assert _draws(warm, 50) != _draws(Sampling(temperature=1.0, seed=4), 50)


def test_draws_follow_the_probabilities() -> None:
    counts = torch.bincount(torch.tensor(_draws(Sampling(temperature=1.0, seed=0), 4000)), minlength=4)
    expected = torch.softmax(LOGITS[0], -1)
    assert torch.allclose(counts / 4000, expected, atol=0.03)


def test_temperature_sharpens() -> None:
    cold = _draws(Sampling(temperature=0.2, seed=0), 500)
    assert cold.count(1) > 480


def test_top_p_leaves_the_tail_out() -> None:
    # Probabilities .61, .22, .08 ...: the two best hold 0.83.
    assert set(_draws(Sampling(temperature=1.0, top_p=0.8, seed=0), 500)) == {1, 2}
    assert set(_draws(Sampling(temperature=1.0, top_p=0.01, seed=0), 50)) == {1}


def test_top_p_over_a_flat_vocabulary_reaches_beyond_the_first_thousand() -> None:
    flat = torch.zeros((1, 5000))
    assert len(set(_draws(Sampling(temperature=1.0, top_p=0.9, seed=0), 3000, flat))) > 1500


def test_a_rows_draws_do_not_depend_on_its_neighbours() -> None:
    alone = _draws(Sampling(temperature=1.0, seed=5), 20)
    sampler, other = Sampler(Sampling(temperature=1.0, seed=5)), Sampler(Sampling(temperature=1.0))
    assert [pick(LOGITS.expand(2, -1), [other, sampler])[1] for _ in range(20)] == alone

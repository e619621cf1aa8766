"""Which token is picked."""

from __future__ import annotations

import pytest
import torch

from core.engines.sampling import Sampler, pick
from core.errors import EngineError
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


def test_penalties_count_the_answers_own_tokens() -> None:
    # Logits 0, 2, 1, -1: after k times token 1, it stands at 2 - k * 0.4 - 0.3.
    assert _draws(Sampling(frequency_penalty=0.4, presence_penalty=0.3), 5) == [1, 1, 2, 1, 1]
    assert _draws(Sampling(presence_penalty=1.5), 4) == [1, 2, 1, 1]


def test_bias_moves_a_token_and_leaves_the_logits_alone() -> None:
    logits = LOGITS.clone()
    assert pick(logits, [Sampler(Sampling(logit_bias=((3, 10.0),)))]) == [3]
    assert pick(logits, [Sampler(Sampling(logit_bias=((1, -100.0),)))]) == [2]
    assert torch.equal(logits, LOGITS)


def test_logprobs_are_the_models_own_whatever_shapes_the_pick() -> None:
    expected = torch.log_softmax(LOGITS[0], -1)
    for sampling in (
        Sampling(top_logprobs=2),
        Sampling(top_logprobs=2, logit_bias=((3, 10.0),), temperature=0.5, seed=1),
    ):
        sampler = Sampler(sampling)
        (token,) = pick(LOGITS, [sampler])
        assert sampler.scored is not None
        assert (sampler.scored.token, sampler.scored.logprob) == (token, pytest.approx(float(expected[token])))
        assert [t for t, _ in sampler.scored.top] == [1, 2]
        assert sampler.scored.top[0][1] == pytest.approx(float(expected[1]))


class _Broken:
    complete = False

    def allowed(self) -> None:
        raise EngineError("no way on")


def test_row_that_cannot_go_on_leaves_its_neighbours_alone() -> None:
    broken, fine = Sampler(Sampling(), _Broken()), Sampler(Sampling())  # type: ignore[arg-type]
    assert pick(LOGITS.expand(2, -1), [broken, fine])[1] == 1
    assert str(broken.error) == "no way on"
    assert fine.error is None

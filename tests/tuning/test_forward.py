"""The savings of the forward pass are exact: same loss and same gradients as the usual one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.conftest import row
from tuning.batches import shared_prefix
from tuning.examples import Example, TrainingTokenizer, make_example
from tuning.flat import FlatWeights
from tuning.forward import SupervisedModel


@pytest.fixture(scope="module")
def examples(starter_folder: Path) -> list[Example]:
    tokenizer = TrainingTokenizer(starter_folder)
    rows = [row("where is my card?", "card_arrival"), row("I would like to top up, how?", "top_up")]
    return [make_example(r, tokenizer, "Answer with one label.") for r in rows]


@pytest.fixture(scope="module")
def model(starter_folder: Path) -> Any:
    """The starter model in fp32 with a LoRA adapter that is not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(starter_folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(0)
    peft = get_peft_model(causal, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return peft


def _usual(model: Any, examples: list[Example]) -> torch.Tensor:
    """Sum of the losses, row by row, by transformers' own loss with labels."""
    total = torch.zeros(())
    for example in examples:
        labels = [-100] * example.prompt + list(example.ids[example.prompt :])
        output = model(input_ids=torch.tensor([example.ids]), labels=torch.tensor([labels]))
        total = total + output.loss * example.supervised
    return total


def _gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("shared", [False, True], ids=["whole rows", "shared prefix"])
def test_loss_and_gradient_are_those_of_the_usual_forward_pass(
    model: Any, examples: list[Example], shared: bool
) -> None:
    prefix = examples[0].ids[: shared_prefix(examples)] if shared else ()
    assert len(prefix) > 10 or not shared
    loss = SupervisedModel(model.get_base_model(), prefix).loss(examples)
    usual = _usual(model, examples)
    assert float(loss.total.detach()) == pytest.approx(float(usual.detach()), rel=1e-5)
    ours, theirs = _gradient(model, loss.total), _gradient(model, usual)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_exact_counts_the_answers_greedy_decoding_would_give(model: Any, examples: list[Example]) -> None:
    causal = model.get_base_model()
    first = examples[0]
    prompt = torch.tensor([first.ids[: first.prompt]])
    said = causal.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, pad_token_id=2
    )
    own = Example("own", tuple(said[0].tolist()), first.prompt)
    assert SupervisedModel(causal).loss([own, first]).exact == 1


def _of_kind(config: Any) -> SupervisedModel:
    """A tiny model of random weights."""
    from transformers import AutoModelForCausalLM

    return SupervisedModel(AutoModelForCausalLM.from_config(config))


def test_rows_share_a_sliding_window_that_is_wide_enough_and_no_other() -> None:
    from transformers import Gemma3TextConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8, "vocab_size": 99}
    model = _of_kind(Gemma3TextConfig(num_hidden_layers=2, num_key_value_heads=1, sliding_window=64, **sizes))
    assert model.can_pack(64)
    assert not model.can_pack(65)


def test_rows_share_a_sequence_in_a_sliding_window_model() -> None:
    from transformers import Gemma3TextConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8, "vocab_size": 99}
    torch.manual_seed(0)
    model = _of_kind(Gemma3TextConfig(num_hidden_layers=6, num_key_value_heads=1, sliding_window=16, **sizes))
    rows = [Example(str(i), tuple(range(i, i + 14)), 9) for i in (5, 25, 45)]
    with model.evaluating():
        together = float(model.loss(rows).total)
        apart = sum(float(model.loss([example]).total) for example in rows)
    assert together == pytest.approx(apart, rel=1e-5)


def test_a_recurrent_model_does_not_share_sequences() -> None:
    from transformers import FalconMambaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 99, "num_hidden_layers": 2, "state_size": 4}
    assert not _of_kind(FalconMambaConfig(**sizes)).can_pack(8)


def test_flat_weights_step_like_adamw_on_separate_weights() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    flat = FlatWeights(ours, weight_decay=0.0)
    optimizer = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0)
    for _ in range(5):
        for parameters in (ours, theirs):
            sum((p**2).sum() for p in parameters).backward()  # type: ignore[union-attr]
        flat.collect()
        flat.step(0.01, max_norm=1e9)
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_bfloat16_weights_keep_updates_too_small_for_them() -> None:
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    flat = FlatWeights([weight], weight_decay=0.0)
    for _ in range(10):
        weight.sum().backward()
        flat.collect()
        flat.step(1e-3, max_norm=1e9)
    assert float(weight.detach()) == pytest.approx(0.99, abs=0.005)

"""The written-out gradients are those of autograd, and what is not plain stays PEFT's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tuning import fused


def _peft(**settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=99, num_hidden_layers=2, **sizes)
    causal = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    return get_peft_model(causal, lora).train()


def _loss_and_gradient(model: Any) -> tuple[float, torch.Tensor]:
    ids = torch.arange(24).view(2, 12)
    seen = torch.ones_like(ids)
    seen[1, 9:] = 0
    labels = ids.masked_fill(seen == 0, -100)
    loss = model(input_ids=ids, attention_mask=seen, labels=labels).loss
    parameters = [p for p in model.parameters() if p.requires_grad]
    return float(loss.detach()), torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("what", ["layers", "attention", "both"])
def test_loss_and_gradient_are_those_of_the_plain_layers(what: str) -> None:
    plain = _peft()
    ours = copy.deepcopy(plain)
    if what != "attention":
        assert fused.fuse_lora(ours) == 2 * 7
    if what != "layers":
        fused.register_attention()
        ours.get_base_model().set_attn_implementation(fused.ATTENTION)
    expected, found = _loss_and_gradient(plain), _loss_and_gradient(ours)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < 1e-4


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_layers_that_do_more_stay_as_they_are(settings: dict[str, Any]) -> None:
    assert fused.fuse_lora(_peft(**settings)) == 0


def test_attention_with_dropout_is_left_to_transformers() -> None:
    fused.register_attention()
    module = torch.nn.Module()
    module.num_key_value_groups = 1
    q = torch.randn(1, 2, 5, 8)
    mask = torch.zeros(1, 1, 5, 5)
    torch.manual_seed(0)
    dropped, _ = fused._attend(module.train(), q, q, q, mask, dropout=0.5)
    kept, _ = fused._attend(module.eval(), q, q, q, mask, dropout=0.5)
    assert not torch.allclose(dropped, kept)

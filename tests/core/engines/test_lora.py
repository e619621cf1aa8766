"""Adapters side by side: each row has exactly its own adapter's change, and adapters that go leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from core.engines.adapters import WEIGHTS, AdapterError
from core.engines.lora import IDLE, AdapterBank
from core.engines.lowrank import PAGE, Choice, Part, Tables
from core.engines.neighbours import readers
from core.engines.transformers import TransformersEngine, load_model
from core.types import Completion, Message, Request, Sampling
from tests.core.engines.tiny import tiny_adapter, tiny_model

INPUTS, OUTPUTS = 24, (40, 8)
RANKS = (0, 3, PAGE, 2 * PAGE + 5)
"""Of the base model and three adapters."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, starter_folder: Path) -> Path:
    return tiny_model("LlamaConfig", tmp_path_factory.mktemp("llama"), starter_folder)


@pytest.fixture
def model(llama: Path) -> Any:
    return load_model(llama, torch.float32)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=9).filter(any),
    tokens=st.integers(1, 3),
    products=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_each_row_has_its_own_adapters_change(rows: list[int], tokens: int, products: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(rows))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    choice = Choice("cpu")
    tables = Tables(choice, "qkv", INPUTS, OUTPUTS, dtype, "cpu")
    tables.grow(3)
    pages: list[tuple[int, ...]] = [(), (4,), (1,), (0, 5, 2)]
    parts = [[Part(random(rank, INPUTS), random(outputs, rank)) for rank in RANKS] for outputs in OUTPUTS]
    for place, own in enumerate(parts):
        tables.write(place, pages[2], own[2])
    tables.grow(6)
    for place, own in enumerate(parts):
        for slot in (1, 3):
            tables.write(place, pages[slot], own[slot])
    if products:  # what a graphics card runs
        tables._decoded = tables._by_products
    choice.choose([pages[slot] for slot in rows], tokens)
    x = random(len(rows), tokens, INPUTS)
    output = random(len(rows), tokens, sum(OUTPUTS))
    changes = [
        torch.cat([x[i].float() @ own[slot].down.float().T @ own[slot].up.float().T for own in parts], -1)
        for i, slot in enumerate(rows)
    ]
    expected = output.float() + torch.stack(changes)
    tables.change(x, output)
    error = (output.float() - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)


def test_modules_that_read_one_input_are_found(model: Any) -> None:
    found = readers(model)
    layer = "model.layers.1."
    q, k, v, o = (found[f"{layer}self_attn.{name}_proj"] for name in "qkvo")
    gate, up, down = (found[f"{layer}mlp.{name}_proj"] for name in ("gate", "up", "down"))
    assert q == k == v
    assert gate == up
    assert len({q, o, gate, down, found["model.layers.0.self_attn.q_proj"], found["lm_head"]}) == 6


@pytest.mark.parametrize("tokens", [1, 5])
def test_adapters_of_several_ranks_and_the_base_model_in_one_pass(
    llama: Path, model: Any, tmp_path: Path, tokens: int
) -> None:
    adapters = [
        None,
        tiny_adapter(tmp_path / "one", llama, seed=1, r=4),
        tiny_adapter(tmp_path / "two", llama, seed=2, r=40, target_modules=["q_proj", "v_proj", "up_proj"]),
        tiny_adapter(tmp_path / "three", llama, seed=3, r=PAGE, rank_pattern={"k_proj": 20}),
    ]
    bank = AdapterBank(model, "tiny")
    order = [adapters[i] for i in (1, 0, 2, 3, 1, 2, 0)]
    ids = torch.randint(3, 1000, (len(order), tokens), generator=torch.Generator().manual_seed(1))
    ours = _logits(bank, model, order, ids)
    for row, adapter in enumerate(order):
        torch.testing.assert_close(ours[row], _peft(llama, adapter, ids[row]), rtol=1e-3, atol=1e-3)
    assert (ours[1] - _peft(llama, adapters[1], ids[1])).abs().max() > 0.1


def test_room_is_used_again_when_adapters_come_and_go(llama: Path, model: Any, tmp_path: Path) -> None:
    bank = AdapterBank(model, "tiny")
    ids = torch.arange(3, 8)[None]
    whole = tiny_adapter(tmp_path / "whole", llama, seed=1)
    slots, rooms = set(), []
    for number in range(3 * IDLE):
        slot = bank.slot(str(shutil.copytree(whole, tmp_path / f"copy-{number}")))
        bank.trim({slot})
        slots.add(slot)
        rooms.append(bank.room)
    assert len(slots) == len(rooms)
    assert rooms[-1] == rooms[IDLE + 1] <= 2 * IDLE
    # Its page was another's before, in modules that it does not adapt too.
    small = tiny_adapter(tmp_path / "small", llama, seed=2, target_modules=["v_proj"])
    ours = _logits(bank, model, [small], ids)
    assert bank.room == rooms[-1]
    torch.testing.assert_close(ours[0], _peft(llama, small, ids[0]), rtol=1e-3, atol=1e-3)


def test_an_adapter_in_use_is_kept_and_one_that_comes_back_is_read_again(
    llama: Path, model: Any, tmp_path: Path
) -> None:
    bank = AdapterBank(model, "tiny")
    first = tiny_adapter(tmp_path / "first", llama, seed=1)
    used, left = bank.slot(str(first)), bank.slot(str(shutil.copytree(first, tmp_path / "left")))
    for number in range(IDLE):
        bank.slot(str(shutil.copytree(first, tmp_path / f"copy-{number}")))
    bank.trim({used})
    assert bank.slot(str(first)) == used
    assert bank.slot(str(tmp_path / "left")) != left


def test_an_adapter_that_does_not_fit_leaves_nothing(llama: Path, model: Any, tmp_path: Path) -> None:
    bank = AdapterBank(model, "tiny")
    torn = tiny_adapter(tmp_path / "torn", llama, seed=1)
    tensors = load_file(torn / WEIGHTS)
    last = [name for name in tensors if ".lora_B." in name][-1]
    save_file({**tensors, last: torch.zeros(7, tensors[last].shape[1])}, torn / WEIGHTS)
    with pytest.raises(AdapterError, match="belongs to another model"):
        bank.slot(str(torn))
    assert bank.room == 0
    ids = torch.arange(3, 8)[None]
    small = tiny_adapter(tmp_path / "small", llama, seed=2, target_modules=["v_proj"])
    ours = _logits(bank, model, [small], ids)
    torch.testing.assert_close(ours[0], _peft(llama, small, ids[0]), rtol=1e-3, atol=1e-3)


def test_an_engine_lets_go_of_adapters_that_nobody_asks_for(llama: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(llama, "tiny", dtype=torch.float32)
    whole = tiny_adapter(tmp_path / "whole", llama, seed=1)
    try:
        answers = set()
        for number in range(2 * IDLE):
            folder = shutil.copytree(whole, tmp_path / f"copy-{number}")
            request = Request((Message("user", "Hi."),), Sampling(max_tokens=2), str(folder))
            answers |= {result.text for result in engine.complete([request]) if isinstance(result, Completion)}
        assert engine._bank.room <= IDLE * 3 // 2
    finally:
        engine.close()
    assert len(answers) == 1


def _logits(bank: AdapterBank, model: Any, adapters: Sequence[Path | None], ids: torch.Tensor) -> torch.Tensor:
    slots = [0 if adapter is None else bank.slot(str(adapter)) for adapter in adapters]
    with torch.inference_mode(), bank.rows(slots, ids.shape[1]):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _peft(folder: Path, adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        made = plain if adapter is None else PeftModel.from_pretrained(plain, str(adapter))
        logits: torch.Tensor = made.eval()(input_ids=ids[None]).logits[0]
    return logits

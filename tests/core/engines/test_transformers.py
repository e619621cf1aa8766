"""The in-process engine: the same tokens as transformers' own generate, however requests are batched."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.engines import packing
from core.engines.decoding import Decoder
from core.engines.pushing import push
from core.engines.transformers import TransformersEngine, load_model
from core.errors import ArtifactError, EngineError, EngineUnavailable
from core.types import Completion, Delta, Message, Request, Sampling
from tests.core.engines.tiny import tiny_adapter, tiny_model

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {},
    "Qwen2Config": {},
    "Qwen3Config": {"head_dim": 16},
    "MistralConfig": {"sliding_window": 12},
    "Gemma2Config": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "Gemma3TextConfig": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "Phi3Config": {},
    "GPT2Config": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512},
}
QUESTIONS = ("Hi.", "What is the capital of France?", "Name three colours and say why.", "word " * 40)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, starter_folder: Path) -> Path:
    return tiny_model("LlamaConfig", tmp_path_factory.mktemp("llama"), starter_folder)


@pytest.fixture(scope="module")
def engine(llama: Path) -> Iterator[TransformersEngine]:
    made = TransformersEngine(llama, "tiny", dtype=torch.float32)
    yield made
    made.close()


def _request(question: str, adapter: Path | None = None, system: str = "", **sampling: Any) -> Request:
    messages = (Message("system", system),) if system else ()
    return Request(
        (*messages, Message("user", question)),
        Sampling(**{"max_tokens": 12, **sampling}),
        None if adapter is None else str(adapter),
    )


def _texts(engine: TransformersEngine, requests: Sequence[Request]) -> list[str]:
    results = engine.complete(requests)
    assert all(isinstance(r, Completion) for r in results), results
    return [r.text for r in results if isinstance(r, Completion)]


def _generated(folder: Path, requests: Sequence[Request], model: Any = None) -> list[str]:
    """The same answers by transformers' generate, one by one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = []
    for request in requests:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=request.sampling.max_tokens, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_those_of_generate(architecture: str, tmp_path: Path, starter_folder: Path) -> None:
    folder = tiny_model(architecture, tmp_path / "model", starter_folder, **ARCHITECTURES[architecture])
    requests = [_request(question) for question in QUESTIONS]
    engine = TransformersEngine(folder, "tiny", dtype=torch.float32)
    try:
        assert _texts(engine, requests) == _generated(folder, requests)
    finally:
        engine.close()


def test_a_model_whose_state_is_not_keys_and_values_is_refused(tmp_path: Path, starter_folder: Path) -> None:
    sizes = {"layer_types": ["linear_attention", "linear_attention", "full_attention"], "head_dim": 16}
    folder = tiny_model("Qwen3NextConfig", tmp_path / "model", starter_folder, num_experts=2, **sizes)
    with pytest.raises(EngineUnavailable, match="linear_attention.*vllm"):
        TransformersEngine(folder, "tiny")


def test_shared_beginnings_change_no_answer(llama: Path, engine: TransformersEngine) -> None:
    system = "Answer with one of these labels: " + ", ".join(f"label_{n}" for n in range(40))
    requests = [_request(question, system=system) for question in (*QUESTIONS, *QUESTIONS)]
    plain = TransformersEngine(llama, "tiny", dtype=torch.float32, reuse_prefixes=False)
    try:
        expected = _texts(plain, requests)
    finally:
        plain.close()
    assert _texts(engine, requests) == expected
    assert [_texts(engine, [request])[0] for request in requests] == expected


def test_a_long_prompt_in_several_passes_gives_the_same_answer(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.engines.transformers as module

    requests = [_request("word " * n) for n in (300, 5, 120)]
    monkeypatch.setattr(module, "PREFILL_TOKENS", 64)
    engine = TransformersEngine(llama, "tiny", dtype=torch.float32)
    try:
        assert _texts(engine, requests) == _generated(llama, requests)
    finally:
        engine.close()


def test_what_is_pushed_is_what_is_streamed(engine: TransformersEngine) -> None:
    pushed: list[Delta] = []
    request = _request(QUESTIONS[1], top_logprobs=1)
    push(engine, request, lambda delta: pushed.append(delta) or True)  # type: ignore[func-returns-value]
    streamed = list(engine.stream(request))
    # The prompt is read anew each time, so the last digit of a log probability may differ.
    for one, other in zip(pushed, streamed, strict=True):
        assert (one.text, [lp.token for lp in one.logprobs]) == (other.text, [lp.token for lp in other.logprobs])
    assert pushed[-1].completion is not None


def test_a_push_that_has_had_enough_frees_its_row(engine: TransformersEngine) -> None:
    taken: list[Delta] = []
    push(engine, _request(QUESTIONS[1], max_tokens=400), lambda delta: bool(taken.append(delta)))  # type: ignore[func-returns-value]
    assert len(taken) == 1
    _texts(engine, [_request(QUESTIONS[0])])
    assert engine._scheduler._running == []


def test_what_a_sink_raises_reaches_its_caller_and_no_other(engine: TransformersEngine) -> None:
    def broken(_delta: Delta) -> bool:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        push(engine, _request(QUESTIONS[1], max_tokens=400), broken)
    assert _texts(engine, [_request(QUESTIONS[0])]) == _texts(engine, [_request(QUESTIONS[0])])


@pytest.mark.parametrize("bias", [False, True])
def test_neighbours_in_one_product_answer_as_plain_layers_do(
    bias: bool, tmp_path: Path, starter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("LlamaConfig", tmp_path / "model", starter_folder, attention_bias=bias)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("k_proj.bias")]:
        weights[name] = torch.linspace(-2, 2, len(weights[name]))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    requests = [_request(question) for question in QUESTIONS]
    # As on a graphics card, and where torch has no oneDNN.
    monkeypatch.setattr(packing, "_works", lambda _dtype: False)
    plain = TransformersEngine(folder, "tiny", dtype=torch.float32)
    try:
        attention = plain._model.model.layers[0].self_attn
        assert attention.q_proj.product is attention.v_proj.product
        assert _texts(plain, requests) == _generated(folder, requests)
    finally:
        plain.close()


def test_more_requests_than_rows_all_get_their_answer(llama: Path) -> None:
    requests = [_request(f"Number {n} " * (n % 5 + 1), max_tokens=n % 7 + 1) for n in range(40)]
    engine = TransformersEngine(llama, "tiny", dtype=torch.float32, max_rows=4)
    try:
        assert _texts(engine, requests) == _generated(llama, requests)
    finally:
        engine.close()


def test_a_chat_does_not_wait_for_a_batch_of_many(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(llama, "tiny", dtype=torch.float32, max_rows=4)
    scheduler, admitted, queued = engine._scheduler, [], threading.Semaphore(0)
    turn, submit = scheduler._turn, scheduler.submit

    def watched(chosen: Any) -> None:
        if not admitted:
            # The first rows of the batch are in; the chat has asked too before there are more.
            assert queued.acquire(timeout=300)
            assert queued.acquire(timeout=300)
        admitted.extend(ask.request.messages[-1].content for ask in chosen)
        turn(chosen)

    def counted(asks: Any) -> None:
        submit(asks)
        queued.release()

    monkeypatch.setattr(scheduler, "_turn", watched)
    monkeypatch.setattr(scheduler, "submit", counted)
    many = threading.Thread(target=engine.complete, args=([_request(f"Number {n}", max_tokens=5) for n in range(60)],))
    try:
        many.start()
        while not scheduler._waiting:
            time.sleep(0.005)
        engine.complete([_request("Hi.", max_tokens=2)])
        assert admitted.index("Hi.") < 8
    finally:
        engine.close()
        many.join()


def test_closing_ends_what_is_waiting(llama: Path) -> None:
    engine = TransformersEngine(llama, "tiny", dtype=torch.float32, max_rows=2)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(engine.complete([_request("Hi.", max_tokens=400)] * 80)))
    thread.start()
    while not engine._scheduler._running:
        time.sleep(0.005)
    engine.close()
    engine.close()
    thread.join(300)
    assert not thread.is_alive()
    assert any(isinstance(result, EngineUnavailable) for result in got)
    with pytest.raises(EngineUnavailable, match="closed"):
        engine.complete([_request("Hi.")])


def test_a_cancelled_stream_stops_at_the_next_token(engine: TransformersEngine) -> None:
    stream = engine.stream(_request("Hi.", max_tokens=400))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    _texts(engine, [_request("Hi.", max_tokens=1)])
    assert engine._scheduler._running == []


def test_a_failing_forward_pass_fails_its_rows_and_no_others(engine: TransformersEngine) -> None:
    before = _texts(engine, [_request("Hi.")])
    real = engine._scheduler._decoder._model

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("out of memory\nwith details")

    broken.device, broken.dtype = real.device, real.dtype  # type: ignore[attr-defined]
    engine._scheduler._decoder._model = broken
    (failed,) = engine.complete([_request("Hi.")])
    engine._scheduler._decoder._model = real
    assert isinstance(failed, EngineError)
    assert str(failed) == "the model failed: RuntimeError: out of memory"
    assert _texts(engine, [_request("Hi.")]) == before


def test_a_model_without_a_chat_template_says_so(llama: Path, tmp_path: Path) -> None:
    for path in llama.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    engine = TransformersEngine(tmp_path, "tiny")
    try:
        (result,) = engine.complete([_request("Hi.")])
        assert isinstance(result, EngineError)
        assert "no chat template" in str(result)
    finally:
        engine.close()


def test_a_damaged_model_is_one_clear_line(llama: Path, tmp_path: Path) -> None:
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 100 if path.suffix == ".safetensors" else None])
    with pytest.raises(EngineUnavailable, match="cannot be loaded") as raised:
        TransformersEngine(tmp_path, "tiny")
    assert "\n" not in str(raised.value)


def test_bf16_packed_layers_and_blockwise_attention_stay_close_to_transformers(llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    ids = torch.randint(0, 40_000, (3, 200))
    ours = load_model(llama, torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).eval()
    exact = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = exact(ids).logits
        error = (ours(ids).logits.float() - wanted).abs().mean()
        usual = (theirs(ids).logits.float() - wanted).abs().mean()
    assert error < 1.5 * usual


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 64}}]
)
def test_an_adapter_answers_as_peft_does(
    llama: Path, engine: TransformersEngine, tmp_path: Path, options: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = tiny_adapter(tmp_path / "adapter", llama, seed=1, **options)
    requests = [_request(question, adapter) for question in QUESTIONS]
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), str(adapter)).eval()
    expected = _generated(llama, requests, peft)
    assert _texts(engine, requests) == expected
    assert expected != _generated(llama, requests)


def test_adapters_and_base_mix_in_one_batch(llama: Path, engine: TransformersEngine, tmp_path: Path) -> None:
    one = tiny_adapter(tmp_path / "one", llama, seed=1)
    two = tiny_adapter(tmp_path / "two", llama, seed=2, r=8, target_modules=["q_proj", "down_proj"])
    requests = [_request(question, adapter) for question in QUESTIONS for adapter in (None, one, two)]
    alone = [_texts(engine, [request])[0] for request in requests]
    assert _texts(engine, requests) == alone
    base = [text for text, request in zip(alone, requests, strict=True) if request.adapter is None]
    assert base == _generated(llama, [_request(question) for question in QUESTIONS])
    assert len({*alone[:3]}) == 3


def test_beginnings_that_adapters_share_are_prefilled_together(
    llama: Path, engine: TransformersEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = "Answer with one of these labels: " + ", ".join(f"mark_{n}" for n in range(40))
    adapters = (None, tiny_adapter(tmp_path / "one", llama, seed=1), tiny_adapter(tmp_path / "two", llama, seed=2))
    requests = [_request(question, adapter, system) for question in QUESTIONS for adapter in adapters]
    plain = TransformersEngine(llama, "tiny", dtype=torch.float32, reuse_prefixes=False)
    try:
        expected = _texts(plain, requests)
    finally:
        plain.close()
    groups: list[list[Any]] = []
    run = Decoder._run_prompts

    def counted(self: Decoder, group: Any) -> Any:
        groups.append(list(group))
        return run(self, group)

    monkeypatch.setattr(Decoder, "_run_prompts", counted)
    assert _texts(engine, requests) == expected
    assert all(len({p.row.adapter for p in group}) == 3 for group in groups if group[0].covered == 0)
    groups.clear()
    assert _texts(engine, requests) == expected
    assert max(len({id(p.prefix) for p in group if p.prefix is not None}) for group in groups) == 3


def test_an_adapter_whose_weights_change_is_read_again(llama: Path, engine: TransformersEngine, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", llama, seed=1)
    before = _texts(engine, [_request(QUESTIONS[1], adapter)])
    time.sleep(0.02)
    tiny_adapter(adapter, llama, seed=9)
    assert _texts(engine, [_request(QUESTIONS[1], adapter)]) != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no adapter there"),
        ("pickle", "no adapter there"),
        ("origin", "trained on 'another-model' and cannot answer on 'tiny'"),
        ("type", "type IA3"),
        ("torn", "not a readable PEFT adapter"),
        ("dora", "uses DoRA"),
        ("shape", "belongs to another model"),
    ],
)
def test_an_adapter_that_cannot_answer_is_a_value_that_says_why(
    llama: Path, engine: TransformersEngine, tmp_path: Path, starter_folder: Path, damage: str, message: str
) -> None:
    folder = tmp_path / "adapter"
    if damage == "shape":
        wide = tiny_model("LlamaConfig", tmp_path / "wide", starter_folder, hidden_size=128)
        tiny_adapter(folder, wide)
    elif damage != "missing":
        tiny_adapter(folder, llama)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if damage == "pickle":
        weights.rename(folder / "adapter_model.bin")
    elif damage == "origin":
        (folder / "origin.json").write_text(json.dumps({"base_model": "another-model"}))
    elif damage == "type":
        config.write_text(json.dumps({"peft_type": "IA3"}))
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:50])
    elif damage == "dora":
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    good = _request("Hi.")
    result, neighbour = engine.complete([_request("Hi.", folder), good])
    assert isinstance(result, EngineError)
    assert isinstance(result, ArtifactError)
    assert message in str(result)
    assert isinstance(neighbour, Completion)

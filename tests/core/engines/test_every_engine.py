"""Claims that hold for every engine: one module, run on each of them."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engines.base import Engine
from core.engines.scripted import ScriptedEngine
from core.engines.tool_reader import joined
from core.errors import ContextTooLong, EngineError, EngineUnavailable
from core.types import Completion, Delta, Message, Request, Sampling, Tool
from tests.core.engines.endpoint import serving

STORY = "Tell me a long story about a cat."
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    STORY,
    "Who wrote Hamlet?",
    "Write one sentence about a cat.",
)


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "Weather of a city.", json.dumps({**PARAMETERS, "additionalProperties": False}))
CLOCK = Tool("clock", "The time.")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"enum": ["maybe", "surely"]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
)


def _script(request: Request) -> str:
    if request.prompt is not None:
        return " Paris, of course."
    if request.sampling.json_schema == SCHEMA:
        return '{"answer": "surely"}'
    if request.sampling.json_schema is not None:
        return '{"name": "weather", "arguments": {"city": "Paris"}}'
    question = request.messages[-1].content
    return f"You asked: {question} Here are ten words, one, two, three, four, five, six, seven, eight."


@pytest.fixture(scope="module", params=["scripted", "remote", "transformers", "llamacpp", "vllm"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "scripted":
        yield ScriptedEngine(_script, context_window=512, delay_s=0.002)
        return
    if request.param == "remote":
        from core.engines.remote import RemoteEngine

        with serving(ScriptedEngine(_script, context_window=512, delay_s=0.002)) as endpoint:
            remote = RemoteEngine(endpoint.url, "scripted")
            yield remote
            remote.close()
        return
    if request.param == "llamacpp":
        from core.engines.llamacpp import LlamaCppEngine, installed
        from core.models import gguf_file

        if not installed():
            pytest.skip("xllamacpp is not installed (pip install 'tunefork[llamacpp]')")
        file = gguf_file("smollm2-135m-instruct")
        if file is None:
            pytest.skip("the starter model's package is not installed (make test installs it)")
        native = LlamaCppEngine(file, "smollm2-135m-instruct")
        yield native
        native.close()
        return
    folder: Path = request.getfixturevalue("starter_folder")
    if request.param == "transformers":
        import torch

        from core.engines.transformers import TransformersEngine

        # fp32: in bf16 two tokens can have the same logit, and then the batch's shape decides between them.
        local = TransformersEngine(folder, "smollm2-135m-instruct", dtype=torch.float32)
        yield local
        local.close()
        return
    from core.engines.vllm import VllmEngine, python_with_vllm
    from core.errors import MissingExtra

    try:
        python_with_vllm()
    except MissingExtra:
        pytest.skip("vllm is not installed (TUNEFORK_VLLM_PYTHON may name an environment that has it)")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    child = VllmEngine(
        folder, "smollm2-135m-instruct", tmp_path_factory.mktemp("logs"), dtype="float32", compiled=False
    )
    yield child
    child.close()


def _exact(engine: Engine) -> bool:
    """Whether an answer is the same whoever is beside: llama.cpp's quantised kernels differ by the batch's size."""
    return type(engine).__name__ != "LlamaCppEngine"


def _ask(question: str, **sampling: object) -> Request:
    return Request((Message("user", question),), Sampling(**{"max_tokens": 16, **sampling}))  # type: ignore[arg-type]


def _complete(engine: Engine, *requests: Request) -> list[Completion]:
    results = engine.complete(requests)
    assert all(isinstance(result, Completion) for result in results), results
    return [result for result in results if isinstance(result, Completion)]


def test_results_come_in_the_order_of_the_requests(engine: Engine) -> None:
    # Each has its own length, so that the order shows where the words of an answer depend on who is beside.
    requests = [_ask(question, max_tokens=4 + i) for i, question in enumerate(QUESTIONS)]
    together = _complete(engine, *requests)
    alone = [_complete(engine, request)[0] for request in requests]
    assert [c.usage.completion_tokens for c in together] == [4, 5, 6, 7, 8]
    if _exact(engine):
        assert [c.text for c in together] == [c.text for c in alone]


def test_an_empty_batch_has_no_results(engine: Engine) -> None:
    assert engine.complete([]) == []


def test_each_item_is_reported_once_from_the_calling_thread(engine: Engine) -> None:
    reported: dict[int, object] = {}
    threads = set()

    def on_done(index: int, result: object) -> None:
        assert index not in reported
        reported[index] = result
        threads.add(threading.get_ident())

    results = engine.complete([_ask(question) for question in QUESTIONS], on_done)
    assert [reported[i] for i in range(len(QUESTIONS))] == results
    assert threads == {threading.get_ident()}


def test_max_tokens_ends_an_answer_by_length(engine: Engine) -> None:
    (completion,) = _complete(engine, _ask(STORY, max_tokens=3))
    assert completion.finish_reason == "length"
    assert completion.usage.completion_tokens == 3


def test_a_stop_string_ends_an_answer_and_is_left_out(engine: Engine) -> None:
    (whole,) = _complete(engine, _ask(STORY))
    stop = whole.text[len(whole.text) // 2 :][:2]
    (stopped,) = _complete(engine, _ask(STORY, stop=(stop,)))
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_a_stop_string_may_span_tokens(engine: Engine) -> None:
    (whole,) = _complete(engine, _ask(STORY))
    stop = whole.text[12:24]
    (stopped,) = _complete(engine, _ask(STORY, stop=(stop, "never said")))
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    streamed = list(engine.stream(_ask(STORY, stop=(stop,))))
    assert "".join(d.text for d in streamed) == stopped.text


def test_a_stop_string_that_is_never_completed_changes_nothing(engine: Engine) -> None:
    (whole,) = _complete(engine, _ask(STORY))
    (other,) = _complete(engine, _ask(STORY, stop=(whole.text[-4:] + " and then nothing",)))
    assert other.text == whole.text


@pytest.mark.parametrize("question", QUESTIONS[:3])
def test_a_stream_adds_up_to_the_completion(engine: Engine, question: str) -> None:
    (whole,) = _complete(engine, _ask(question))
    deltas = list(engine.stream(_ask(question)))
    last = deltas[-1].completion
    assert last is not None
    assert all(delta.completion is None for delta in deltas[:-1])
    assert "".join(delta.text for delta in deltas) == last.text == whole.text
    assert last.finish_reason == whole.finish_reason
    assert last.usage == whole.usage


def test_a_stream_arrives_in_pieces(engine: Engine) -> None:
    assert sum(bool(delta.text) for delta in engine.stream(_ask(STORY))) > 5


def test_usage_counts_the_prompt_and_the_answer(engine: Engine) -> None:
    short, long = _complete(engine, _ask("Say hi."), _ask("Say hi. " * 20))
    assert 0 < short.usage.prompt_tokens < long.usage.prompt_tokens
    assert 0 < short.usage.completion_tokens <= 16
    assert short.latency_s > 0


def test_a_prompt_that_is_too_long_is_a_value_beside_its_neighbours_answers(engine: Engine) -> None:
    first, long, last = engine.complete([_ask("Say hi."), _ask("word " * 9000), _ask("Say hi.")])
    assert isinstance(long, ContextTooLong)
    assert long.prompt_tokens > long.context_window
    assert isinstance(first, Completion)
    assert isinstance(last, Completion)


def test_a_prompt_that_is_too_long_for_a_stream_is_raised(engine: Engine) -> None:
    with pytest.raises(EngineError, match="context|broke off"):
        list(engine.stream(_ask("word " * 9000)))


def test_sampling_with_a_seed_repeats_itself_whoever_is_beside(engine: Engine) -> None:
    warm = _ask("Write one sentence about a cat.", temperature=1.0, top_p=0.9, seed=7)
    (alone,) = _complete(engine, warm)
    if not _exact(engine):
        assert _complete(engine, warm)[0].text == alone.text
        return
    beside = _complete(engine, _ask("Say hi.", temperature=1.0, seed=1), warm, _ask("Name a fish.", temperature=1.0))
    assert beside[1].text == alone.text


def test_a_closed_stream_frees_the_engine(engine: Engine) -> None:
    stream = engine.stream(_ask(STORY, max_tokens=400))
    assert isinstance(next(stream), Delta)
    stream.close()  # type: ignore[attr-defined]
    _complete(engine, _ask("Say hi.", max_tokens=2))


def test_a_stream_that_nobody_started_leaves_nothing_behind(engine: Engine) -> None:
    stream = engine.stream(_ask(STORY))
    del stream
    gc.collect()
    _complete(engine, _ask("Say hi.", max_tokens=2))


def test_an_interrupted_batch_withdraws_the_rest(engine: Engine) -> None:
    def interrupt(_index: int, _result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.complete([_ask(question) for question in QUESTIONS], interrupt)
    _complete(engine, _ask("Say hi.", max_tokens=2))


def test_sixteen_threads_get_their_own_answers(engine: Engine) -> None:
    # Each has its own length, which tells whose an answer is where its words depend on who is beside.
    requests = [_ask(f"{STORY} The cat is {n} years old.", max_tokens=4 + n) for n in range(16)]
    alone = [_complete(engine, request)[0].text for request in requests]
    got: dict[int, Completion] = {}

    def ask(index: int) -> None:
        if index % 2:
            last = list(engine.stream(requests[index]))[-1].completion
            assert last is not None
            got[index] = last
        else:
            got[index] = _complete(engine, requests[index])[0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i].usage.completion_tokens for i in range(16)] == list(range(4, 20))
    if _exact(engine):
        assert [got[i].text for i in range(16)] == alone


def test_logprobs_are_reported_for_each_token(engine: Engine) -> None:
    (whole,) = _complete(engine, _ask(STORY, max_tokens=6, top_logprobs=2))
    deltas = list(engine.stream(_ask(STORY, max_tokens=6, top_logprobs=2)))
    streamed = [lp for delta in deltas for lp in delta.logprobs]
    assert whole.logprobs is not None
    assert b"".join(lp.raw for lp in whole.logprobs).decode() == whole.text
    assert [lp.token for lp in streamed] == [lp.token for lp in whole.logprobs]
    assert all(lp.logprob <= 0 for lp in streamed)
    (plain,) = _complete(engine, _ask(STORY, max_tokens=6))
    assert plain.logprobs is None


def test_a_demanded_call_is_made(engine: Engine) -> None:
    chat = (Message("user", "What is the weather in Paris?"),)
    request = Request(chat, Sampling(max_tokens=60), tools=(WEATHER, CLOCK), tool_choice=WEATHER)
    (whole,) = _complete(engine, request)
    deltas = list(engine.stream(request))
    last = deltas[-1].completion
    assert last is not None
    assert joined([piece for delta in deltas for piece in delta.tool_calls]) == last.tool_calls
    for completion in (whole, last):
        assert completion.finish_reason == "tool_calls"
        assert completion.text == ""
        (call,) = completion.tool_calls
        assert call.name == "weather"
        assert set(json.loads(call.arguments)) == {"city"}


def test_an_answer_is_held_to_its_schema(engine: Engine) -> None:
    (whole,) = _complete(engine, _ask("Is the sky blue?", max_tokens=40, json_schema=SCHEMA))
    value = json.loads(whole.text)
    assert set(value) == {"answer"}
    assert value["answer"] in ("maybe", "surely")
    assert whole.finish_reason == "stop"


def test_a_text_is_continued_without_a_chat(engine: Engine) -> None:
    request = Request((), Sampling(max_tokens=4), prompt="The capital of France is")
    (whole,) = _complete(engine, request)
    assert whole.usage.prompt_tokens <= 6
    assert "".join(delta.text for delta in engine.stream(request)) == whole.text


def test_tokens_are_counted(engine: Engine) -> None:
    assert engine.count_tokens("") == 0
    assert 0 < engine.count_tokens("one two three") < engine.count_tokens("one two three four five six seven")


def test_a_closed_engine_says_so_and_closes_twice() -> None:
    engine = ScriptedEngine(_script)
    engine.close()
    engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        engine.complete([_ask("Say hi.")])

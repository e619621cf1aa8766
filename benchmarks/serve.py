"""Our server under load: TTFT, ITL and throughput at 1 to 32 streams, by engine, beside a bound measured in the same run.

    .venv/bin/python -m benchmarks.serve [--engines transformers,llamacpp] [--vllm-python PATH] [--quick]

The server is a process of its own, asked over HTTP by this one; both share the machine's cores, so what the client
costs is in the figures. The bound is one static batch of 16 on plain transformers in bf16, no server around it.
`--vllm-python` names a Python that has vLLM: it is measured raw, and through our server as a remote engine.
Raw figures go to benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serve.json"
MODELS = ROOT / ".cache" / "models"
MODEL = "smollm2-135m-instruct"
STREAMS = (1, 4, 16, 32)
TOKENS = 64
TOPICS = ("a cat", "the sea", "a lighthouse", "winter", "a train", "two brothers", "an old clock", "the desert")


class Seen(NamedTuple):
    """One streamed answer, as a client saw it."""

    ttft_s: float
    gaps_s: list[float]
    tokens: int
    text: str


@contextmanager
def server(engine: str, home: Path) -> Iterator[str]:
    """A tunefork server on a free port; gives its URL with /v1."""
    command = [sys.executable, "-m", "core.cli", "serve", "--port", "0", "--json", "--engine", engine]
    environment = {**os.environ, "TUNEFORK_HOME": str(home)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server with engine {engine} did not start"
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.wait(30)


def prompt(number: int) -> str:
    return f"Write a long story, number {number}, about {TOPICS[number % len(TOPICS)]}."


async def stream(client: httpx.AsyncClient, url: str, model: str, text: str, tokens: int) -> Seen:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = last = time.perf_counter()
    first, gaps, said, usage = None, [], "", 0
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
            piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
            if not piece:
                continue
            now = time.perf_counter()
            if first is None:
                first = now - started
            else:
                gaps.append(now - last)
            last, said = now, said + piece
    assert first is not None and usage, f"no answer to {text!r}"
    return Seen(first, gaps, usage, said)


async def load(url: str, model: str, streams: int, rounds: int) -> dict[str, Any]:
    """`streams` clients side by side, each asking `rounds` times; and /health asked all the while."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:
        health: list[float] = []
        watching = asyncio.create_task(_watch(client, url, health))

        async def one(number: int) -> list[Seen]:
            return [await stream(client, url, model, prompt(number + streams * turn), TOKENS) for turn in range(rounds)]

        started = time.perf_counter()
        answers = [seen for each in await asyncio.gather(*(one(n) for n in range(streams))) for seen in each]
        wall_s = time.perf_counter() - started
        watching.cancel()
    tokens = sum(seen.tokens for seen in answers)
    return {
        "streams": streams,
        "requests": len(answers),
        "tokens": tokens,
        "wall_s": wall_s,
        "tokens_per_s": tokens / wall_s,
        "ttft_s": spread([seen.ttft_s for seen in answers]),
        "itl_s": spread([gap for seen in answers for gap in seen.gaps_s]),
        "health_s": spread(health) if health else None,
    }


async def _watch(client: httpx.AsyncClient, url: str, times: list[float]) -> None:
    health = url.removesuffix("/v1") + "/health"
    while True:
        started = time.perf_counter()
        (await client.get(health)).raise_for_status()
        times.append(time.perf_counter() - started)
        await asyncio.sleep(0.05)


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        **{f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 95, 99)},
        "max": ordered[-1],
    }


async def sixty_four(url: str, model: str) -> dict[str, Any]:
    """64 streams at once, each asked for its own number: how many end, name their number, name another's."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:
        numbers = [1000 + 37 * n for n in range(64)]
        asked = (stream(client, url, model, f"Repeat this number and say nothing else: {n}", 16) for n in numbers)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    ended = [(n, a) for n, a in zip(numbers, answers, strict=True) if isinstance(a, Seen)]
    said = [(n, {int(x) for x in re.findall(r"\d{4}", seen.text)}) for n, seen in ended]
    return {
        "streams": 64,
        "ended": len(ended),
        "own_number": sum(n in found for n, found in said),
        "anothers_number": sum(bool((found & set(numbers)) - {n}) for n, found in said),
    }


def engine_figures(engine: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(MODELS)
        with server(engine, home) as url:
            asyncio.run(load(url, MODEL, 2, 1))  # warm up
            by_streams = []
            for n in STREAMS:
                by_streams.append(asyncio.run(load(url, MODEL, n, rounds * (2 if n == 1 else 1))))
                print(f"  {n} streams: {by_streams[-1]['tokens_per_s']:.0f} tok/s", file=sys.stderr, flush=True)
            return {"load": by_streams, "sixty_four": asyncio.run(sixty_four(url, MODEL))}


def rag_overhead(pairs: int) -> dict[str, Any]:
    """What answering from retrieved passages adds to the first token, beyond the longer prompt it makes.

    Each question is asked of a RAG use case, and the very prompt that this makes is sent to the base model. By then the
    prompt has been asked often enough to stand in the engine's prefix cache, which both find it in: otherwise the one
    asked first pays for the other, a hundred milliseconds and more. Then the use case is asked while others' answers
    are being written, and the server itself says what finding the passages took.
    """
    from core.prompts import grounded
    from core.remedy import Remedy, save_remedy
    from core.types import Message, Source
    from core.workspace import Workspace
    from rag.ingest import ingest

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        documents = Path(folder) / "documents"
        documents.mkdir()
        home.mkdir()
        (home / "models").symlink_to(MODELS)
        for number in range(200):
            text = f"The access code of room {number} is {1000 + 37 * number}. It is on floor {number % 9}. " * 4
            (documents / f"room{number}.txt").write_text(text, encoding="utf-8")
        workspace = Workspace(home)
        case, settings = workspace.declare("rooms", {"base_model": MODEL, "top_k": 2})
        ingest(case, settings, workspace, [documents])
        remedy = {"use_case": "rooms", "route": "rag", "base_model": MODEL, "top_k": 2, "max_tokens": 4}
        embedding = settings.embedding_model
        save_remedy(case.remedy_path, Remedy.model_validate({**remedy, "embedding_model": embedding}))
        with server("transformers", home) as url, httpx.Client(timeout=120, trust_env=False) as client:

            def ask(model: str, text: str) -> tuple[float, dict[str, Any]]:
                body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
                started = time.perf_counter()
                answer = client.post(f"{url}/chat/completions", json=body).raise_for_status().json()
                return time.perf_counter() - started, answer

            plain, rag = [], []
            for number in range(pairs):
                question = f"What is the access code of room {number * 7 % 200}?"
                # Seen once, kept the second time, and found the third.
                for _ in range(3):
                    _, answer = ask("rooms", question)
                sources = [Source(**one) for one in answer["choices"][0]["message"]["sources"]]
                text = grounded((Message("user", question),), sources)[0].content
                order = [("rooms", question, rag), (MODEL, text, plain)]
                for model, asked, times in order if number % 2 else order[::-1]:
                    seconds, same = ask(model, asked)
                    times.append(seconds)
                    assert same["usage"] == answer["usage"], "the two prompts differ"
            retrieval_s = {"alone": _retrieval_s(client, url)}
            asyncio.run(_beside_streams(url, pairs))
            retrieval_s["beside_4_streams"] = _retrieval_s(client, url, retrieval_s["alone"])
    difference = [r - p for r, p in zip(rag, plain, strict=True)]
    return {
        "pairs": pairs,
        "rag_s": spread(rag),
        "same_prompt_s": spread(plain),
        "added_s": spread(difference),
        "retrieval_s": {name: {"n": n, "mean": seconds / n} for name, (n, seconds) in retrieval_s.items()},
    }


async def _beside_streams(url: str, questions: int) -> None:
    """Ask the use case one question after another, beside four streams of the base model."""
    async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
        ended = asyncio.Event()

        async def others(number: int) -> None:
            while not ended.is_set():
                await stream(client, url, MODEL, prompt(number), TOKENS)

        streams = [asyncio.create_task(others(number)) for number in range(4)]
        for number in range(questions):
            await stream(client, url, "rooms", f"On which floor is room {number * 7 % 200}?", 1)
        ended.set()
        await asyncio.gather(*streams)


def _retrieval_s(client: httpx.Client, url: str, before: tuple[int, float] = (0, 0.0)) -> tuple[int, float]:
    """(answers, seconds in all) of finding passages, by the server's own count, since `before`."""
    text = client.get(url.removesuffix("/v1") + "/metrics").raise_for_status().text
    found = [
        float(re.search(rf"^tunefork_retrieval_seconds_{what}{{[^}}]*}} (\S+)", text, re.MULTILINE)[1])  # type: ignore[index]
        for what in ("count", "sum")
    ]
    return int(found[0]) - before[0], found[1] - before[1]


def static_batch(rows: int) -> dict[str, Any]:
    """Tokens a second of one static batch on plain transformers in bf16: nothing joins, nothing leaves."""
    code = f"""
import json, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = {str(MODELS / MODEL)!r}
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
texts = [tokenizer.apply_chat_template([dict(role="user", content=t)], tokenize=False, add_generation_prompt=True)
         for t in {[prompt(n) for n in range(rows)]!r}]
batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
options = dict(do_sample=False, max_new_tokens={TOKENS}, min_new_tokens={TOKENS}, pad_token_id=tokenizer.eos_token_id)
rates = []
with torch.inference_mode():
    model.generate(**batch, **options)
    for _ in range(2):
        start = time.perf_counter()
        model.generate(**batch, **options)
        rates.append({rows * TOKENS} / (time.perf_counter() - start))
print(json.dumps(rates))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rates = json.loads(done.stdout.strip().splitlines()[-1])
    return {"rows": rows, "tokens_per_s": statistics.median(rates), "runs": rates}


def vllm_figures(python: str, rounds: int) -> dict[str, Any]:
    """vLLM raw, and the same server through ours as a remote engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODELS / MODEL)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, "vLLM ended while starting"
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(1)
        with tempfile.TemporaryDirectory() as folder, server(url, Path(folder)) as ours:
            asyncio.run(load(f"{url}/v1", MODEL, 2, 1))
            asyncio.run(load(ours, MODEL, 2, 1))
            return {
                "raw": [asyncio.run(load(f"{url}/v1", MODEL, n, rounds)) for n in (1, 8)],
                # Eight at once is what a remote engine keeps under way.
                "through_ours": [asyncio.run(load(ours, MODEL, n, rounds)) for n in (1, 8)],
            }
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="transformers,llamacpp")
    parser.add_argument("--vllm-python")
    parser.add_argument("--quick", action="store_true", help="one round, few pairs")
    options = parser.parse_args()
    rounds = 1 if options.quick else 2
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("tunefork", "torch", "transformers")},
        "model": MODEL,
        "tokens": TOKENS,
        "engines": {},
    }
    for engine in options.engines.split(","):
        print(f"{engine} ...", file=sys.stderr, flush=True)
        result["engines"][engine] = engine_figures(engine, rounds)
    result["static_batch"] = static_batch(16)
    print(f"static batch of 16: {result['static_batch']['tokens_per_s']:.0f} tok/s", file=sys.stderr, flush=True)
    result["rag"] = rag_overhead(6 if options.quick else 20)
    if options.vllm_python:
        result["vllm"] = vllm_figures(options.vllm_python, rounds)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Our server under load: TTFT, ITL and throughput at 1 to 32 streams, by engine, beside a bound measured in the same run.

    .venv/bin/python -m benchmarks.serve [--only PARTS] [--engines transformers,llamacpp] [--vllm-python PATH] [--quick]

Parts: engines, static_batch, adapters, rag, vllm. With --only the other parts of the result stay as they were.

The server is a process of its own, asked over HTTP by this one; both share the machine's cores, so what the client
costs is in the figures. The bound is one static batch of 16 on plain transformers in bf16, no server around it.
`adapters` mixes eight adapters in one batch, beside the base model alone. `--vllm-python` (or TUNEFORK_VLLM_PYTHON) names
a Python that has vLLM: it is measured raw, and through our server as a remote engine.
Raw figures go to benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
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
    # Three digits: prompts then share their beginning whatever their number, as those of a use case do.
    return f"Write a long story, number {number:03}, about {TOPICS[number % len(TOPICS)]}."


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


async def load(
    url: str, model: str | Sequence[str], streams: int, rounds: int, tokens: int = TOKENS, first: int = 0
) -> dict[str, Any]:
    """`streams` clients side by side, each asking `rounds` times; and /health asked all the while.

    Of several models, each client asks one. Prompts are numbered from `first`.
    """
    models = [model] if isinstance(model, str) else model
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:
        health: list[float] = []
        watching = asyncio.create_task(_watch(client, url, health))

        async def one(number: int) -> list[Seen]:
            asked = models[number % len(models)]
            numbers = range(first + number, first + number + streams * rounds, streams)
            return [await stream(client, url, asked, prompt(turn), tokens) for turn in numbers]

        started = time.perf_counter()
        answers = [seen for each in await asyncio.gather(*(one(n) for n in range(streams))) for seen in each]
        wall_s = time.perf_counter() - started
        watching.cancel()
    made = sum(seen.tokens for seen in answers)
    return {
        "streams": streams,
        "requests": len(answers),
        "tokens": made,
        "wall_s": wall_s,
        "tokens_per_s": made / wall_s,
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

            plain: list[float] = []
            rag: list[float] = []
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


def adapters_mixed(count: int, streams: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Tokens a second of `streams` clients spread over `count` adapters, and of as many that ask the base model.

    The adapters are PEFT's of rank 16 over all linear layers, untrained: their change is zero, so that both answer the
    same words, at the full price of an adapter. The two take turns, with new prompts in each round; the first round, in
    which the beginnings that prompts share are learnt, is not counted.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.remedy import Remedy, save_remedy
    from core.workspace import Workspace
    from tuning.adapters import Origin, base_fingerprint, save_origin

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(MODELS)
        workspace = Workspace(home)
        base = MODELS / MODEL
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        origin = {"method": "lora", "base_model": MODEL, "base_fingerprint": base_fingerprint(base), "train_s": 0.0}
        origin |= {"data": {"rows": 0, "dev_rows": 0}, "recipe": {}, "scores": {}, "versions": {}, "created": "now"}
        names = [f"adapter-{number}" for number in range(count)]
        for name in names:
            case, settings = workspace.declare(name, {"base_model": MODEL})
            with case.adapters.build() as staging:
                model.save_pretrained(staging)
                save_origin(staging, Origin.model_validate(origin))
            case.adapters.activate("v0001")
            remedy = {"use_case": name, "route": "tune", "method": "lora", "base_model": MODEL}
            remedy |= {"embedding_model": settings.embedding_model, "adapter_version": "v0001"}
            save_remedy(case.remedy_path, Remedy.model_validate(remedy))
        with server("transformers", home) as url:
            base_only: list[dict[str, Any]] = []
            mixed: list[dict[str, Any]] = []
            for number in range(rounds + 1):
                for found, asked in ((base_only, [MODEL]), (mixed, names)):
                    one = asyncio.run(load(url, asked, streams, 1, tokens, first=streams * number))
                    if number:
                        found.append(one)
    share = statistics.median(b["tokens_per_s"] / a["tokens_per_s"] for a, b in zip(base_only, mixed, strict=True))
    alone = statistics.median(run["tokens_per_s"] for run in base_only)
    print(f"{count} adapters mixed: {share:.2f} of the base's {alone:.0f} tok/s", file=sys.stderr, flush=True)
    return {"adapters": count, "streams": streams, "share": share, "base_only": base_only, "mixed": mixed}


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


@contextmanager
def raw_vllm(python: str) -> Iterator[str]:
    """vLLM's own server over the starter; gives its URL without /v1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODELS / MODEL)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"vLLM ended while starting: {log.read()[-2000:]}")
                try:
                    if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(1)
            yield url
        finally:
            # Its engine is a process of its own.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def vllm_figures(python: str, rounds: int, tokens: int, pairs: int) -> dict[str, Any]:
    """vLLM raw, and the same server through ours as a remote engine: `pairs` of runs in turns for each number of streams."""
    found: dict[str, Any] = {"raw": [], "through_ours": []}
    with raw_vllm(python) as url, tempfile.TemporaryDirectory() as folder, server(url, Path(folder)) as ours:
        for asked in (f"{url}/v1", ours):
            asyncio.run(load(asked, MODEL, 2, 1, tokens))  # warm up
        for streams in (1, 8, 32):
            for pair in range(pairs):
                both = [("raw", f"{url}/v1"), ("through_ours", ours)]
                for name, asked in both[:: -1 if pair % 2 else 1]:
                    found[name].append(asyncio.run(load(asked, MODEL, streams, rounds, tokens)))
                    rate = found[name][-1]["tokens_per_s"]
                    print(f"  {name}, {streams} streams: {rate:.0f} tok/s", file=sys.stderr, flush=True)
    return found


PARTS = ("engines", "static_batch", "adapters", "rag", "vllm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--engines", default="transformers,llamacpp")
    parser.add_argument("--vllm-python", default=os.environ.get("TUNEFORK_VLLM_PYTHON"))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="an answer, in the parts adapters and vllm")
    parser.add_argument("--quick", action="store_true", help="one round, few pairs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    parts = [part for part in options.only.split(",") if part] or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.only and "vllm" in parts and not options.vllm_python:
        parser.error("the part vllm needs --vllm-python or TUNEFORK_VLLM_PYTHON")
    rounds = 1 if options.quick else 2
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() and options.only else {}
    result: dict[str, Any] = {
        **known,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("tunefork", "torch", "transformers")},
        "model": MODEL,
        "tokens": TOKENS,
    }
    if "engines" in parts:
        result["engines"] = {}
        for engine in options.engines.split(","):
            print(f"{engine} ...", file=sys.stderr, flush=True)
            result["engines"][engine] = engine_figures(engine, rounds)
    if "static_batch" in parts:
        result["static_batch"] = static_batch(16)
        print(f"static batch of 16: {result['static_batch']['tokens_per_s']:.0f} tok/s", file=sys.stderr, flush=True)
    if "adapters" in parts:
        result["adapters"] = adapters_mixed(8, 16, 1 if options.quick else 5, options.tokens)
    if "rag" in parts:
        result["rag"] = rag_overhead(6 if options.quick else 20)
    if "vllm" in parts and options.vllm_python:
        result["vllm"] = vllm_figures(options.vllm_python, rounds, options.tokens, 1 if options.quick else 5)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

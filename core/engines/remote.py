"""A model behind any OpenAI-compatible endpoint: OpenAI, Ollama, vLLM, llama.cpp's server, ourselves."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from core.engines import openai_wire as wire
from core.engines.answer import StopStrings
from core.engines.base import OnDone, Result
from core.engines.collect import Out, collect, pieces
from core.engines.pushing import Pushed, Sink
from core.engines.retries import Breaker, Retrying
from core.errors import EngineError, EngineTimeout, EngineUnavailable
from core.types import Completion, Delta, FinishReason, Request, Usage

CONCURRENCY = 8
"""Requests under way at once: a hosted API throttles above that, a local server batches that many."""

TIMEOUT_S = 120.0
"""Longest silence: until the first byte of an answer, and between pieces."""

CONNECT_S = 10.0

KEEPALIVE_S = 4.0
"""An unused connection is kept so long: one second less than uvicorn keeps it, which hangs up just when it is used again
otherwise."""


RETRYING = Retrying()


class RemoteEngine:
    """Asks an endpoint. Nothing is sent until the first request; a dead endpoint shows then."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str | None = None,
        api_key: str | None = None,
        context_window: int | None = None,
        adapters: Mapping[str, str | Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
        concurrency: int | None = None,
        timeout_s: float = TIMEOUT_S,
        retrying: Retrying = RETRYING,
    ) -> None:
        """
        Args:
            base_url: as OpenAI clients take it; a URL without a path gets /v1.
            model: the model's name at the endpoint.
            name: the name the user wrote for it; `model` when None.
            api_key: None: TUNEFORK_API_KEY, else OPENAI_API_KEY, else no key.
            adapters: by adapter folder, its model name at the endpoint or the fields of a request that ask for it; looked
                up when a request wants an adapter.
            extra: fields added to every request, for endpoints that know more than OpenAI's.
            concurrency: requests under way at once; CONCURRENCY when None.
        """
        parts = urlsplit(base_url)
        self._url = base_url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._model = model
        self._name = name or model
        self._window = context_window
        self._adapters = adapters if adapters is not None else {}
        self._extra = dict(extra or {})
        self._timeout_s = timeout_s
        self._retrying = retrying
        self._breaker = Breaker()
        self._length_field = "max_tokens"
        key = api_key or os.environ.get("TUNEFORK_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy from the environment is for the world outside, not for a server on this machine.
        self._trust_env = parts.hostname not in ("127.0.0.1", "localhost", "::1")
        self._limit = asyncio.Semaphore(CONCURRENCY if concurrency is None else concurrency)
        self._loop = _event_loop()
        self._client: aiohttp.ClientSession | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run_loop, name="tunefork-remote", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._window

    def count_tokens(self, text: str) -> int:
        """An upper estimate: three bytes a token. English has about four, Chinese and Japanese three or more."""
        return wire.estimated_tokens(text)

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """Answers in order, several requests under way at once.

        Raises:
            EngineUnavailable: not one item could be answered, for the endpoint cannot be reached or turns us away.
        """
        out: Out = SimpleQueue()
        tasks: list[Future[None]] = []
        try:
            tasks += [self._start(self._answer(i, request, out, deltas=False)) for i, request in enumerate(requests)]
            results = collect(out, len(requests), on_done)
        finally:
            for task in tasks:
                task.cancel()
        if results and all(isinstance(r, EngineUnavailable) for r in results):
            first = results[0]
            assert isinstance(first, EngineUnavailable)
            raise first
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        out: Out = SimpleQueue()
        task = self._start(self._answer(0, request, out, deltas=True))
        try:
            yield from pieces(out)
        finally:
            task.cancel()

    def push(self, request: Request, sink: Sink) -> None:
        """As core.engines.pushing.push: `sink` is called in the thread that reads the endpoint's stream."""
        pushed = Pushed(sink)
        pushed.wait(self._start(self._answer(0, request, pushed, deltas=True)).cancel)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        if self._closed:
            work.close()
            raise EngineUnavailable("the engine is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _shut(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _answer(self, index: int, request: Request, out: Out | Pushed, *, deltas: bool) -> None:
        """Put the item's pieces (where wanted) and its end on `out`; always an end, also when cancelled."""
        end: Result = EngineUnavailable("the engine was closed before it answered")
        try:
            async with self._limit:
                end = await self._tried(index, request, out if deltas else None)
        except EngineError as exc:
            end = exc
        except Exception as exc:  # noqa: BLE001 - crosses threads: a caller waits for an end, whatever happened
            end = EngineError(f"{self._url}: {type(exc).__name__}: {exc}")
            end.__cause__ = exc
        finally:
            out.put((index, end))

    async def _tried(self, index: int, request: Request, out: Out | Pushed | None) -> Completion:
        """The answer, after as many attempts as it is worth."""
        attempt = 0
        while True:
            try:
                self._breaker.check(self._url)
            except EngineUnavailable as exc:
                exc.attempts = attempt
                raise
            attempt += 1
            sent = _Sent()
            try:
                completion = await self._attempt(index, request, out, sent)
            except wire.Refused as exc:
                if exc.length_field and exc.length_field != self._length_field:
                    self._length_field = exc.length_field
                    continue
                if exc.room is not None and exc.room < request.sampling.max_tokens:
                    request = replace(request, sampling=replace(request.sampling, max_tokens=exc.room))
                    continue
                error, wait_s, again = exc.error, exc.retry_after_s, exc.again
            except TimeoutError as exc:
                error = EngineTimeout(f"{self._url}: no answer within {self._timeout_s:g} s")
                error.__cause__ = exc
                wait_s, again = None, isinstance(exc, aiohttp.ConnectionTimeoutError)
            except aiohttp.ClientError as exc:
                error = EngineUnavailable(f"{self._url}: cannot be reached ({str(exc) or type(exc).__name__})")
                error.__cause__ = exc
                wait_s, again = None, not isinstance(exc, aiohttp.InvalidURL)
            else:
                self._breaker.succeeded()
                return replace(completion, attempts=attempt)
            if sent.pieces or not again or attempt >= self._retrying.attempts:
                if isinstance(error, EngineUnavailable) and not sent.pieces:
                    self._breaker.failed()
                error.attempts = attempt
                raise error
            await asyncio.sleep(self._retrying.pause_s(attempt, wait_s))

    async def _attempt(self, index: int, request: Request, out: Out | Pushed | None, sent: _Sent) -> Completion:
        if self._client is None:
            self._client = self._connect()
        body = wire.body(request, self._model, self._length_field, stream=out is not None)
        body |= {**self._extra, **self._adapter_fields(request)}
        url = f"{self._url}/{wire.path(request)}"
        started = time.monotonic()
        async with self._client.post(url, json=body, allow_redirects=False) as response:
            if out is not None and response.status == 200:
                return await self._read_stream(index, request, response.content.iter_any(), out, sent, started)
            reply = wire.Reply(response.status, response.reason or "", response.headers, await response.read())
            wire.check(reply, self._url)
            answered = wire.answer(reply, self._url)
            stop = StopStrings(request.sampling.stop)
            text = stop.push(answered.text) + stop.finish()
            reason = "stop" if stop.found else answered.reason
            return self._completion(request, answered._replace(text=text, reason=reason), started)

    def _connect(self) -> aiohttp.ClientSession:
        # The certificates that httpx brings along, as in the rest of the program.
        trusted = httpx.create_ssl_context(trust_env=self._trust_env) if self._url.startswith("https:") else True
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=trusted, limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(CONNECT_S, self._timeout_s), sock_read=self._timeout_s
            ),
            trust_env=self._trust_env,
        )

    async def _read_stream(
        self,
        index: int,
        request: Request,
        parts: AsyncIterable[bytes],
        out: Out | Pushed,
        sent: _Sent,
        started: float,
    ) -> Completion:
        stop = StopStrings(request.sampling.stop)
        text, told, called = "", 0, 0
        end = wire.StreamEnd()
        async for piece in wire.pieces(parts, self._url, end):
            shown, new = stop.push(piece), tuple(end.logprobs[told:])
            calls = tuple(end.calls[called:])
            if shown or new or calls:
                text, told, called = text + shown, told + len(new), called + len(calls)
                sent.pieces += 1
                out.put((index, Delta(shown, tool_calls=calls, logprobs=new)))
            if stop.found:
                break
        rest = stop.finish()
        if rest:
            text += rest
            out.put((index, Delta(rest)))
        reason: FinishReason = "stop" if stop.found else end.reason
        answered = wire.Answered(text, reason, end.usage, end.tool_calls, tuple(end.logprobs))
        return self._completion(request, answered, started)

    def _adapter_fields(self, request: Request) -> Mapping[str, Any]:
        """What asks for the request's adapter."""
        if request.adapter is None:
            return {}
        if request.adapter not in self._adapters:
            raise EngineError(
                f"{self._url}: an endpoint cannot load the adapter {request.adapter};"
                " serve the adapter's use case with a model on this machine"
            )
        asked = self._adapters[request.adapter]
        return {"model": asked} if isinstance(asked, str) else asked

    def _completion(self, request: Request, answered: wire.Answered, started: float) -> Completion:
        usage = answered.usage
        if usage is None:
            prompt = sum(self.count_tokens(m.content) for m in request.messages)
            usage = Usage(prompt, self.count_tokens(answered.text))
        return Completion(
            answered.text,
            # A call that was demanded ends with "stop" at some endpoints, and with "tool_calls" at others.
            "tool_calls" if answered.tool_calls and answered.reason == "stop" else answered.reason,
            usage,
            time.monotonic() - started,
            tool_calls=answered.tool_calls,
            logprobs=None if request.sampling.top_logprobs is None else answered.logprobs,
        )


def _event_loop() -> asyncio.AbstractEventLoop:
    # It reads a socket in C, where asyncio's own loop does it in Python; there is none for Windows.
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class _Sent:
    """How much of an attempt the caller has seen; after the first piece there is no second attempt."""

    def __init__(self) -> None:
        self.pieces = 0

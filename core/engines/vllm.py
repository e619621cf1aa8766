"""vLLM as a child process on loopback: started, watched, restarted after a crash, and stopped with us."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from core.engines.adapters import WEIGHTS, AdapterError, adapter_config, rank
from core.engines.base import OnDone, Result
from core.engines.pushing import Sink, push_each
from core.engines.tokens import ChatTokenizer, generation_ends
from core.engines.tool_reader import read_calls, with_calls
from core.engines.tools import as_text, held_to_choice, offered
from core.engines.vllm_server import VllmServer
from core.errors import ContextTooLong, EngineError, EngineUnavailable, MissingExtra
from core.types import Completion, Delta, Request

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for --max-lora-rank."""

MAX_ADAPTERS = 8
"""Adapters in one batch; more are swapped in and out by vLLM."""

LONGEST_PAUSE_S = 60.0

ENDING_S = 2.0
"""What a server that has broken off an answer may take to be gone; its engine's end comes before its own."""


class VllmEngine:
    """Owns one vLLM server and the adapters loaded into it.

    The server starts with the first request that needs it, or in `start`. It runs without LoRA until a request brings
    an adapter (LoRA switches off vLLM's compiled path on a CPU), and is started anew when an adapter's rank is above
    what it was started for.
    """

    def __init__(
        self, folder: Path, name: str, logs: Path, *, dtype: str = "auto", max_rank: int = 0, compiled: bool = True
    ) -> None:
        """
        Args:
            logs: folder for the server's output, one file a start.
            compiled: False starts in seconds where compiling takes minutes, and answers more slowly.
            max_rank: largest rank of the adapters to expect; 0 when none are known.

        Raises:
            MissingExtra: there is no vLLM, neither here nor in TUNEFORK_VLLM_PYTHON's environment.
            EngineUnavailable: the folder has no tokenizer that can be read.
        """
        self._python = python_with_vllm()
        self._folder = folder
        self._name = name
        self._logs = logs
        self._dtype = dtype
        self._compiled = compiled
        self._rank = servable_rank(max_rank)
        self._tokens = ChatTokenizer(folder)
        self._ends = sorted(self._tokens.end_ids | generation_ends(folder))
        self._server: VllmServer | None = None
        self._adapters: dict[str, str] = {}
        self._turn = threading.Condition()
        self._under_way = 0
        self._starting = False
        self._crashes = 0
        self._not_before = 0.0
        self._closed = False

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        """Known once the server runs; starts it."""
        with self._in_use() as server:
            return server.context_window

    def count_tokens(self, text: str) -> int:
        return len(self._tokens.ids(text))

    def start(self) -> None:
        """Start the server now rather than with the first request."""
        with self._in_use():
            pass

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        if not requests:
            return []
        results: dict[int, Result] = {}
        with self._in_use(self._wanted_rank(requests)) as server:
            ready: list[tuple[int, Request]] = []
            for index, request in enumerate(requests):
                try:
                    ready.append((index, self._prepared(server, request)))
                except EngineError as exc:
                    results[index] = exc
                    if on_done is not None:
                        on_done(index, exc)
            places = [index for index, _ in ready]

            answered: dict[int, Result] = {}

            def read(i: int, result: Result) -> Result:
                # Once an answer: reading gives the calls in it their ids.
                if i not in answered:
                    if isinstance(result, Completion):
                        answered[i] = with_calls(requests[places[i]], result)
                    else:
                        # One wait a batch: where the server lives, every other failure would cost it again.
                        failed_before = any(isinstance(one, EngineError) for one in answered.values())
                        answered[i] = self._explained(server, result, 0.0 if failed_before else ENDING_S)
                return answered[i]

            report = None if on_done is None else lambda i, result: on_done(places[i], read(i, result))
            try:
                raw = server.remote.complete([request for _, request in ready], report)
            except EngineUnavailable as exc:
                raise self._explained(server, exc) from exc
            answers = [read(i, result) for i, result in enumerate(raw)]
        results.update(zip(places, answers, strict=True))
        return [results[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        with self._in_use(self._wanted_rank([request])) as server:
            try:
                yield from read_calls(request, server.remote.stream(self._prepared(server, request)))
            except EngineError as exc:
                raise self._explained(server, exc) from exc

    def push(self, request: Request, sink: Sink) -> None:
        if request.tools:
            push_each(self.stream(request), sink)
            return
        with self._in_use(self._wanted_rank([request])) as server:
            try:
                server.remote.push(self._prepared(server, request), sink)
            except EngineError as exc:
                raise self._explained(server, exc) from exc

    def close(self) -> None:
        with self._turn:
            self._closed = True
            server, self._server = self._server, None
            self._turn.notify_all()
        if server is not None:
            server.stop()

    @contextmanager
    def _in_use(self, wanted_rank: int = 0) -> Iterator[VllmServer]:
        """The running server, fit for adapters of `wanted_rank`; it is not replaced while the block runs."""
        with self._turn:
            while self._starting or (self._under_way and self._unfit(wanted_rank)):
                self._turn.wait()
            if self._closed:
                raise EngineUnavailable("the engine is closed")
            mine = self._unfit(wanted_rank)
            self._starting = mine
            if not mine:
                self._under_way += 1
        if mine:
            self._replace(wanted_rank)
        server = self._server
        try:
            if server is None:
                raise EngineUnavailable("the engine is closed")
            yield server
        finally:
            with self._turn:
                self._under_way -= 1
                self._turn.notify_all()

    def _unfit(self, wanted_rank: int) -> bool:
        return self._server is None or self._server.ended or wanted_rank > self._rank

    def _replace(self, wanted_rank: int) -> None:
        """Start a server in place of none, a crashed one, or one with too small a rank; then it is under way once."""
        started = False
        try:
            old = self._server
            if old is not None:
                self._note_crash(old)
                old.stop()
            left = self._not_before - time.monotonic()
            if left > 0:
                last = f": {old.last_line}" if old is not None else ""
                raise EngineUnavailable(f"vLLM crashed{last} (it is started again in {left:.0f} s)")
            self._rank = max(self._rank, servable_rank(wanted_rank))
            self._adapters.clear()
            server = VllmServer(
                self._python, self._arguments(), self._name, self._logs, self._adapters, {"stop_token_ids": self._ends}
            )
            with self._turn:
                started = not self._closed
                self._server = server if started else None
            if not started:
                server.stop()
                raise EngineUnavailable("the engine is closed")
        finally:
            with self._turn:
                self._starting = False
                self._under_way += started
                self._turn.notify_all()

    def _note_crash(self, server: VllmServer) -> None:
        """Back off a little more after each crash; a server that has lived a while starts the count anew."""
        if not server.ended or server.noted:
            return
        server.noted = True
        self._crashes = 1 if server.lived_s > 10 * LONGEST_PAUSE_S else self._crashes + 1
        # The first restart is at once: a single crash should cost a client one error, not a minute.
        pause_s = min(2.0**self._crashes, LONGEST_PAUSE_S) if self._crashes > 1 else 0.0
        self._not_before = time.monotonic() + pause_s

    def _explained(self, server: VllmServer, exc: EngineError, wait_s: float = ENDING_S) -> EngineError:
        """`exc`, or the last words of a server that is gone: its end breaks answers off in more than one way."""
        if type(exc) in (EngineError, EngineUnavailable) and server.ended_within(wait_s):
            return EngineUnavailable(f"vLLM crashed: {server.last_line} (log: {server.log})")
        return exc

    def _wanted_rank(self, requests: Sequence[Request]) -> int:
        ranks = [0]
        for folder in {r.adapter for r in requests if r.adapter is not None}:
            try:
                ranks.append(min(rank(adapter_config(Path(folder), self._name)), RANKS[-1]))
            except AdapterError:
                continue  # reported item by item in _prepared
        return max(ranks)

    def _prepared(self, server: VllmServer, request: Request) -> Request:
        """`request` within the context window, its adapter loaded.

        Raises:
            EngineError: it does not fit, or its adapter cannot be used.
        """
        prompt = len(self._tokens.prompt(request))
        window = server.context_window
        if prompt + 1 > window:
            raise ContextTooLong(prompt, window)
        if request.adapter is not None:
            self._load(server, request.adapter)
        longest = min(request.sampling.max_tokens, window - prompt)
        request = self._told(held_to_choice(request))
        return replace(request, sampling=replace(request.sampling, max_tokens=longest))

    def _told(self, request: Request) -> Request:
        """`request` with its tools in the prompt only: vLLM's own reading of calls needs a parser named at its start,
        one for each family of models, so the answer's text is read here as on every other engine."""
        if request.prompt is not None:
            return request
        if self._tokens.takes_tools:
            return replace(request, tools=offered(request), tool_choice="none")
        return replace(request, messages=as_text(request.messages, offered(request)), tools=(), tool_choice="auto")

    def _load(self, server: VllmServer, folder: str) -> None:
        """Load the adapter under a name that changes with its weights: vLLM's prefix cache goes by the name."""
        path = Path(folder).resolve()
        largest = rank(adapter_config(path, self._name))
        if largest > RANKS[-1]:
            raise AdapterError(f"{folder}: rank {largest}; vLLM serves adapters up to rank {RANKS[-1]}")
        stamp = f"{path}:{(path / WEIGHTS).stat().st_mtime_ns}"
        name = f"adapter-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
        with server.loading:
            if self._adapters.get(folder) != name:
                server.load_adapter(name, path)
                self._adapters[folder] = name

    def _arguments(self) -> list[str]:
        # The model's own generation_config may set penalties and top_k; requests say how to decode, on every engine.
        arguments = ["--model", str(self._folder), "--served-model-name", self._name, "--generation-config", "vllm"]
        arguments += ["--dtype", self._dtype]
        if not self._compiled:
            arguments.append("--enforce-eager")
        if self._rank:
            arguments += ["--enable-lora", "--max-lora-rank", str(self._rank), "--max-loras", str(MAX_ADAPTERS)]
        return arguments


def servable_rank(largest: int) -> int:
    """The smallest --max-lora-rank that serves adapters of rank `largest`; 0 for no adapters."""
    return next((r for r in RANKS if r >= largest), RANKS[-1]) if largest else 0


def python_with_vllm() -> str:
    """The Python that has vLLM: TUNEFORK_VLLM_PYTHON, else this one.

    Raises:
        MissingExtra: it has none.
    """
    other = os.environ.get("TUNEFORK_VLLM_PYTHON")
    if other is None:
        if find_spec("vllm") is None:
            raise MissingExtra("the vllm engine", "vllm")
        return sys.executable
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([other, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError as exc:
        raise EngineUnavailable(f"TUNEFORK_VLLM_PYTHON={other}: cannot be run ({exc.strerror})") from exc
    if not found:
        raise MissingExtra(f"the vllm engine (TUNEFORK_VLLM_PYTHON={other})", "vllm")
    return other

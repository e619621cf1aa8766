"""The one thread that owns a model: it takes requests from many threads and answers them in one running batch.

Callers take turns: of several batches that wait, each gives one request to the
running batch in rotation, so a single chat never waits for a batch of hundreds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from core.engines.answer import AnswerText
from core.engines.base import Result
from core.engines.collect import Out
from core.engines.decoding import Decoder, Row
from core.engines.grammar import Constraint
from core.engines.lora import AdapterBank
from core.engines.pushing import Pushed
from core.engines.sampling import Sampler, Scored
from core.engines.tool_reader import ToolReader
from core.errors import EngineError, EngineUnavailable
from core.types import Completion, Delta, FinishReason, Request, TokenLogprob, Usage

RESERVED_ANSWER = 256
"""Columns set aside for an answer when its row is admitted; a longer one may grow past them."""


class Ask:
    """One request on its way through the batch."""

    def __init__(
        self,
        index: int,
        request: Request,
        prompt: Sequence[int],
        max_new: int,
        call: Call,
        constraint: Constraint | None = None,
    ) -> None:
        self.constraint = constraint
        self.index = index
        self.request = request
        self.prompt = prompt
        self.max_new = max_new
        self.call = call
        self.row: Row | None = None
        self.answer: AnswerText | None = None
        self.made = 0
        self.told = 0
        """Log probabilities and calls that the caller has been given."""
        self.handed = 0
        self.started = 0.0
        self._ended = False

    def end(self, result: Result) -> None:
        """Give the caller its result; only the first one counts."""
        if not self._ended:
            self._ended = True
            self.call.out.put((self.index, result))


class Call:
    """What one caller asked for, and the way back to it."""

    def __init__(self, out: Out | Pushed, *, deltas: bool) -> None:
        """
        Args:
            deltas: whether pieces are wanted, or only whole answers.
        """
        self.out = out
        self.deltas = deltas
        self.cancelled = False
        """Set by the caller; the worker frees the rows before its next step."""


class Scheduler:
    """Owns the thread, the decoder and the queue."""

    def __init__(
        self,
        decoder: Decoder,
        bank: AdapterBank,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        report: Callable[[Scored], TokenLogprob],
        *,
        max_rows: int,
        max_columns: int,
    ) -> None:
        """
        Args:
            decode: token ids to text.
            end_ids: tokens that end an answer.
            report: the log probabilities of a token, as callers get them.
            max_rows: most rows in the running batch.
            max_columns: most columns of keys and values, rows x longest row, over the running batch.
        """
        self._decoder = decoder
        self._bank = bank
        self._decode = decode
        self._end_ids = end_ids
        self._report = report
        self._max_rows = max_rows
        self._max_columns = max_columns
        self._waiting: deque[deque[Ask]] = deque()
        self._running: list[Ask] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tunefork-engine", daemon=True)
        self._thread.start()

    def submit(self, asks: Sequence[Ask]) -> None:
        """Queue the requests of one call. Raises EngineUnavailable after `close`."""
        # Longest first: neighbours in length are prefilled with little padding, and the batch's tail is short.
        ordered = deque(sorted(asks, key=lambda ask: -len(ask.prompt)))
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the engine is closed")
            if ordered:
                self._waiting.append(ordered)
                self._changed.notify()

    def cancel(self, call: Call) -> None:
        """Withdraw what `call` still has waiting or running."""
        with self._changed:
            call.cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; what waits or runs ends with EngineUnavailable."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._waiting and not self._running:
                    self._changed.wait()
                if self._closed:
                    break
                self._waiting = deque(w for w in self._waiting if not w[0].call.cancelled)
                chosen = self._choose()
            self._guarded(self._turn, chosen)
        gone = EngineUnavailable("the engine was closed before it answered")
        self._fail([*self._running, *(ask for waiting in self._waiting for ask in waiting)], gone)
        self._decoder.clear()

    def _choose(self) -> list[Ask]:
        """Requests to take in now: callers in rotation, as many as rows and columns allow."""
        chosen: list[Ask] = []
        longest = max((_columns(ask) for ask in self._running), default=0)
        while self._waiting:
            ask = self._waiting[0][0]
            rows = len(self._running) + len(chosen) + 1
            longest = max(longest, _columns(ask))
            # A row alone is always taken, however long: it can have the whole cache.
            if rows > 1 and (rows > self._max_rows or rows * longest > self._max_columns):
                break
            chosen.append(ask)
            self._waiting[0].popleft()
            if not self._waiting[0]:
                self._waiting.popleft()
            self._waiting.rotate(-1)
        return chosen

    def _turn(self, chosen: list[Ask]) -> None:
        """One round: let cancelled rows go, take in new ones, prefill some, add a token to all."""
        self._drop([ask for ask in self._running if ask.call.cancelled])
        self._take_in(chosen)
        if self._decoder.entering:
            self._advance(self._decoder.prefill())
        if self._decoder.rows:
            self._decoder.step()
            self._advance(list(self._decoder.rows))

    def _guarded(self, work: Callable[[list[Ask]], None], asks: list[Ask]) -> None:
        """Run `work`; when the model fails, the rows it may have spoilt fail with it, and the thread lives on."""
        try:
            work(asks)
        except Exception as exc:  # noqa: BLE001 - whatever torch raises must reach the callers, who wait for an answer
            lines = str(exc).strip().splitlines()
            error = EngineError(f"the model failed: {type(exc).__name__}: {lines[0] if lines else 'no message'}")
            error.__cause__ = exc
            self._decoder.clear()
            self._fail({id(ask): ask for ask in [*asks, *self._running]}.values(), error)
            self._running = []

    def _take_in(self, asks: list[Ask]) -> None:
        rows = []
        for ask in asks:
            ask.started = time.monotonic()
            try:
                slot = self._bank.slot(ask.request.adapter) if ask.request.adapter is not None else 0
            except EngineError as exc:
                self._fail([ask], exc)
                continue
            sampling = ask.request.sampling
            ask.row = Row(ask.prompt, Sampler(sampling, ask.constraint), slot)
            ask.answer = AnswerText(
                self._decode,
                sampling.stop,
                ToolReader(ask.request) if ask.request.tools else None,
                None if sampling.top_logprobs is None else self._report,
            )
            self._running.append(ask)
            rows.append(ask.row)
        if rows:
            self._decoder.enter(rows)

    def _advance(self, rows: list[Row]) -> None:
        """Hand out each row's newest token, and let finished rows go."""
        finished: list[tuple[Ask, FinishReason]] = []
        failed: list[tuple[Ask, EngineError]] = []
        by_row = {id(ask.row): ask for ask in self._running}
        for row in rows:
            ask = by_row[id(row)]
            assert ask.answer is not None
            if row.sampler.error is not None:
                failed.append((ask, row.sampler.error))
                continue
            ask.made += 1
            end = row.last in self._end_ids
            piece = "" if end else ask.answer.push(row.last, row.sampler.scored)
            end = end or row.sampler.complete
            done = end or ask.answer.stopped or ask.made >= ask.max_new
            if done:
                piece += ask.answer.finish()
            if ask.call.deltas:
                self._hand_out(ask, piece)
            if done:
                reason: FinishReason = "stop" if end or ask.answer.stopped else "length"
                finished.append((ask, ask.answer.reason(reason)))
        self._drop([ask for ask, _ in (*finished, *failed)])
        for ask, error in failed:
            ask.end(error)
        for ask, reason in finished:
            ask.end(_completion(ask, reason))

    @staticmethod
    def _hand_out(ask: Ask, piece: str) -> None:
        """What is new of an answer: text, calls, log probabilities."""
        answer = ask.answer
        assert answer is not None
        logprobs, calls = tuple(answer.logprobs[ask.told :]), tuple(answer.call_pieces[ask.handed :])
        if piece or logprobs or calls:
            ask.told, ask.handed = len(answer.logprobs), len(answer.call_pieces)
            ask.call.out.put((ask.index, Delta(piece, tool_calls=calls, logprobs=logprobs)))

    def _drop(self, asks: list[Ask]) -> None:
        if asks:
            gone = {id(ask) for ask in asks}
            self._decoder.remove([ask.row for ask in asks if ask.row is not None])
            self._running = [ask for ask in self._running if id(ask) not in gone]
            self._bank.trim({ask.row.adapter for ask in self._running if ask.row is not None})

    @staticmethod
    def _fail(asks: Iterable[Ask], error: EngineError) -> None:
        for ask in asks:
            ask.end(error)


def _completion(ask: Ask, reason: FinishReason) -> Completion:
    assert ask.answer is not None
    return Completion(
        ask.answer.text,
        reason,
        Usage(len(ask.prompt), ask.made),
        latency_s=time.monotonic() - ask.started,
        tool_calls=tuple(ask.answer.calls),
        logprobs=None if ask.request.sampling.top_logprobs is None else tuple(ask.answer.logprobs),
    )


def _columns(ask: Ask) -> int:
    return len(ask.prompt) + max(min(ask.max_new, RESERVED_ANSWER), ask.made)

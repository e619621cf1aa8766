"""The text of one answer as its tokens arrive: whole characters only, ended by stop strings.

A token may hold half a character or half a stop string. Text is let out only
once no later token can change it, so what a stream sent is never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.types import CallPiece, FinishReason, TokenLogprob, ToolCall

if TYPE_CHECKING:
    from core.engines.sampling import Scored
    from core.engines.tool_reader import ToolReader

REPLACEMENT = "\ufffd"
"""What a tokenizer writes for bytes that are not yet a character."""

MAX_INCOMPLETE = 8
"""Tokens that can be waited for to complete one character (4 bytes, a token each, and a margin); after that the
bytes are really invalid, and the replacement character is the model's own output."""


class Detokenizer:
    """Token ids to text, piece by piece.

    Decodes a short window of tokens rather than the whole answer (constant cost a token), starting before the new
    ones, since a token's text depends on its neighbours (spaces, byte sequences). The two-offset scheme is the one
    of text-generation-inference and vLLM.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0
        self._read = 0
        self._shown = ""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; "" while a character is incomplete."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        waiting = len(self._ids) - self._read
        if text.endswith(REPLACEMENT) and waiting < MAX_INCOMPLETE:
            return ""
        new = text[len(self._shown) :]
        if not new:
            return ""
        self._start = self._read
        self._read = len(self._ids)
        self._shown = self._decode(self._ids[self._start :])
        return new


class AnswerText:
    """The answer so far, and the part of it that may be shown."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
        reader: ToolReader | None = None,
        report: Callable[[Scored], TokenLogprob] | None = None,
    ) -> None:
        """
        Args:
            reader: takes function calls out of the text.
            report: makes the log probabilities of a token that are to be told; None: nobody wants them.
        """
        self._detokenizer = Detokenizer(decode)
        self._stop = StopStrings(stop)
        self._reader = reader
        self._report = report
        self._parts: list[str] = []
        self._read = 0
        self._passed = 0
        self._waiting: list[tuple[int, TokenLogprob]] = []
        self.logprobs: list[TokenLogprob] = []
        """Of the tokens let out so far."""

    @property
    def text(self) -> str:
        """All text let out so far."""
        return "".join(self._parts)

    @property
    def stopped(self) -> bool:
        """A stop string, or the one call that is allowed, has ended the answer."""
        return self._stop.found or (self._reader is not None and self._reader.done)

    @property
    def calls(self) -> Sequence[ToolCall]:
        """Function calls that were read so far."""
        return () if self._reader is None else self._reader.calls

    @property
    def call_pieces(self) -> Sequence[CallPiece]:
        """What they consist of, in the order that it came."""
        return () if self._reader is None else self._reader.pieces

    def reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer ended, once it has ended for `reason`: with calls where it made any."""
        return reason if self._reader is None else self._reader.reason(reason)

    def push(self, token: int, scored: Scored | None = None) -> str:
        """Text that this token lets out."""
        if self._report is not None and scored is not None:
            self._waiting.append((self._read, self._report(scored)))
        return self._through(self._detokenizer.push(token))

    def finish(self) -> str:
        """Text that was held back in case a stop string or a call began; an unfinished character's bytes are dropped."""
        shown = "" if self._stop.found else self._stop.finish()
        self._passed += len(shown)
        if self._reader is not None:
            shown = self._reader.push(shown) + self._reader.finish()
        # Of a stop string only the tokens before it are told; without one, all are.
        keep = [lp for start, lp in self._waiting if not self._stop.found or start < self._passed]
        self.logprobs += keep
        self._waiting = []
        return self._add(shown)

    def _through(self, piece: str) -> str:
        self._read += len(piece)
        shown = self._stop.push(piece)
        self._passed += len(shown)
        if self._reader is not None:
            shown = self._reader.push(shown)
        if not self._stop.found and self._waiting and self._passed == self._read and piece:
            # All that was read is let out, so no stop string can take a token back.
            self.logprobs += [lp for _, lp in self._waiting]
            self._waiting = []
        return self._add(shown)

    def _add(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text


class StopStrings:
    """Cuts a text that arrives in pieces before the first stop string that is completed in it.

    The result does not depend on how the text is cut into pieces: "first" is the one that ends first, and of those
    that end together the longest.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that can be let out now that `piece` has arrived."""
        if self.found:
            return ""
        if not self._stop:
            return piece
        self._held += piece
        ends = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        if ends:
            self.found = True
            _, cut = min(ends)
            out, self._held = self._held[:cut], ""
            return out
        keep = max(_overlap(self._held, s) for s in self._stop)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def finish(self) -> str:
        """The text held back, once nothing more will come."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with (shorter than `stop`)."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)

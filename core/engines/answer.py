"""The text of one answer as its tokens arrive: whole characters only, ended by stop strings.

A token may hold half a character or half a stop string. Text is let out only
once no later token can change it, so what a stream sent is never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stop = StopStrings(stop)
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All text let out so far."""
        return "".join(self._parts)

    @property
    def stopped(self) -> bool:
        """A stop string has ended the answer."""
        return self._stop.found

    def push(self, token: int) -> str:
        """Text that this token lets out."""
        return self._add(self._stop.push(self._detokenizer.push(token)))

    def finish(self) -> str:
        """Text that was held back in case a stop string began; bytes of an unfinished character are dropped."""
        return self._add(self._stop.finish())

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

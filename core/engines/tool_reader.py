"""Function calls read out of a model's text while it comes: their arguments are let out piece by piece."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

from core.engines.tools import CLOSE, OPEN, forced_schema, offered
from core.types import CallPiece, Completion, Delta, FinishReason, Request, Tool, ToolCall

_BEGIN = r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
_FIRST = re.compile(rf"\s*(?P<list>\[)?{_BEGIN}")
_NEXT = re.compile(rf"\s*,{_BEGIN}")
"""The beginning of a call up to its arguments, in the order that models and our schema of a demanded call write it."""

_TEXT, _ARGUMENTS, _REST, _BETWEEN = range(4)
"""Where the reader stands: outside calls, in a call's arguments, behind them, behind the call."""


class ToolReader:
    """Takes the calls out of an answer's text as it comes; lets out what is certainly none of a call.

    Without tools everything passes at once. A demanded call is the whole answer. Otherwise a call is what stands
    between the tags, or an answer that begins with the JSON of a call (Llama's and Mistral's way, whose own markers
    are special tokens and so not in the text). What looks like a call and names no offered function is text.

    A call has begun when its name and the brace that opens its arguments are there; what follows is its arguments,
    also when it breaks off. A call that is written in another order, or of a strict function that the model was free to
    call with anything, is read once it is whole: until then it may prove to be none.
    """

    def __init__(self, request: Request) -> None:
        self._names = {tool.name: tool for tool in offered(request)} if request.prompt is None else {}
        self._whole = self._names and forced_schema(request) is not None
        self._several = request.parallel_tool_calls
        self._held = ""
        self._white = ""
        self._begun = False
        self._state = _TEXT
        self._tagged = False
        self._list = False
        self._braces = _Braces()
        self.pieces: list[CallPiece] = []
        """What the calls read so far consist of."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far; the arguments of the last may not be whole."""
        return joined(self.pieces)

    @property
    def done(self) -> bool:
        """The one call that is allowed has come; what follows would be dropped."""
        return bool(self.pieces) and not self._several and self._state != _ARGUMENTS

    def reason(self, reason: FinishReason) -> FinishReason:
        """Why an answer ended that by its engine's account ended for `reason`: a call that was cut off is not made."""
        return "tool_calls" if self.pieces and self._state != _ARGUMENTS else reason

    def push(self, piece: str) -> str:
        """The text that can be let out now."""
        if not self._names:
            return piece
        self._held += piece
        return self._read(final=False)

    def finish(self) -> str:
        """The text held back, less the calls in it."""
        return self._read(final=True) if self._names else ""

    def _read(self, final: bool) -> str:
        out = ""
        steps = {_TEXT: self._text, _ARGUMENTS: self._arguments, _REST: self._rest, _BETWEEN: self._between}
        while not self.done and (text := steps[self._state](final)) is not None:
            out += text
            self._begun = self._begun or bool(text.strip())
        if self.done:
            self._held = ""
        # White space with nothing but calls behind it is no text; what comes is only known at the end.
        out = self._white + out
        shown = out if final and not self.pieces else out.rstrip()
        self._white = out[len(shown) :]
        return shown

    # Each step takes something from what is held and returns the text in it, or None when it needs more.

    def _text(self, final: bool) -> str | None:
        if not self._begun and not self.pieces and (self._whole or self._held.lstrip()[:1] in ("{", "[")):
            if self._begins(_FIRST.match(self._held), tagged=False):
                return ""
            if not final:
                return None
            if calls := self._bare(self._held):
                self._held = ""
                self._take(calls)
                return ""
        at = self._held.find(OPEN)
        if at < 0:
            return self._cut(len(self._held) - (0 if final else _beginning(self._held, OPEN))) or None
        before, inside = self._held[:at], self._held[at + len(OPEN) :]
        end = inside.find(CLOSE)
        if self._begins(_FIRST.match(inside), tagged=True):
            return before
        if end < 0 and not final:
            return self._cut(at) or None
        # The model may end its turn without the closing tag.
        calls = self._bare(inside if end < 0 else inside[:end])
        whole = self._cut(len(self._held) if end < 0 else at + len(OPEN) + end + len(CLOSE))
        self._take(calls)
        return before if calls else whole

    def _arguments(self, final: bool) -> str | None:
        text, cut = self._of_call(final)
        used = self._braces.until(text, depth=1)
        if used:
            self.pieces.append(CallPiece(self.pieces[-1].index, arguments=self._cut(used)))
        if self._braces.depth == 1:
            self._state = _REST
        elif cut:
            self._state = _BETWEEN
        else:
            return None
        return ""

    def _rest(self, final: bool) -> str | None:
        """What else a call's object has: of no use here."""
        text, cut = self._of_call(final)
        self._cut(self._braces.until(text, depth=0))
        if self._braces.depth and not cut:
            return None
        self._state = _BETWEEN
        return ""

    def _between(self, final: bool) -> str | None:
        held = self._held.lstrip()
        if self._list:
            return self._next(held, final)
        if self._tagged and held.startswith(CLOSE):
            self._held = held[len(CLOSE) :]
        elif self._tagged and not final and CLOSE.startswith(held):
            return None
        self._state = _TEXT
        return ""

    def _next(self, held: str, final: bool) -> str | None:
        """The next call of a list, or its end."""
        if held.startswith("]"):
            self._held, self._list = held[1:], False
            return ""
        self._held = held
        if self._begins(_NEXT.match(held), tagged=self._tagged, listed=True):
            return ""
        end = held.find(CLOSE) if self._tagged else -1
        if end < 0 and not final:
            return None
        rest = self._cut(len(held) if end < 0 else end)
        calls = self._bare(f"[{rest[1:]}") if rest.startswith(",") else []
        self._list = False
        self._take(calls)
        return "" if calls else rest

    def _begins(self, begin: re.Match[str] | None, *, tagged: bool, listed: bool = False) -> bool:
        """Take the beginning of a call, where it is one that can be let out in pieces."""
        if begin is None:
            return False
        try:
            tool = self._names.get(json.loads(begin["name"]))
        except ValueError:
            return False
        # A demanded call follows its schema from the first token on.
        if tool is None or (tool.strict and not self._whole):
            return False
        self.pieces.append(CallPiece(self._index(), new_id(), tool.name))
        self._held = begin.string[begin.end() :]
        self._state, self._tagged, self._list = _ARGUMENTS, tagged, listed or bool(begin["list"])
        self._braces = _Braces()
        return True

    def _of_call(self, final: bool) -> tuple[str, bool]:
        """What is held of the call, and whether its closing tag follows."""
        if not self._tagged:
            return self._held, False
        at = self._held.find(CLOSE)
        if at >= 0:
            return self._held[:at], True
        return self._held[: len(self._held) - (0 if final else _beginning(self._held, CLOSE))], False

    def _cut(self, at: int) -> str:
        """Take the first `at` characters of what is held."""
        text, self._held = self._held[:at], self._held[at:]
        return text

    def _index(self) -> int:
        return self.pieces[-1].index + 1 if self.pieces else 0

    def _take(self, calls: Sequence[ToolCall]) -> None:
        for call in calls if self._several else calls[:1]:
            self.pieces += in_pieces(self._index(), call)

    def _bare(self, text: str) -> list[ToolCall]:
        """The calls of which `text` is the JSON; [] when it is anything else."""
        try:
            value = json.loads(text)
        except ValueError:
            return []
        found = []
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str) or item["name"] not in self._names:
                return []
            arguments = item.get("arguments", item.get("parameters", {}))
            if isinstance(arguments, str):
                try:
                    arguments = json.loads(arguments)
                except ValueError:
                    return []
            if not isinstance(arguments, dict) or not _follows(arguments, self._names[item["name"]]):
                return []
            found.append(ToolCall(new_id(), item["name"], json.dumps(arguments, ensure_ascii=False)))
        return found


class _Braces:
    """How deep a JSON text is in objects and lists as it comes, beginning inside one object."""

    def __init__(self) -> None:
        self.depth = 1
        self._in_string = False
        self._escaped = False

    def until(self, text: str, depth: int) -> int:
        """Characters of `text` up to and with the one that closes all but `depth`; all of them where none does."""
        for at, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self.depth += 1
            elif char in "}]":
                self.depth -= 1
                if self.depth == depth:
                    return at + 1
        return len(text)


def new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def in_pieces(index: int, call: ToolCall) -> tuple[CallPiece, CallPiece]:
    """The pieces of a call that is whole."""
    return CallPiece(index, call.id, call.name), CallPiece(index, arguments=call.arguments)


def joined(pieces: Sequence[CallPiece]) -> tuple[ToolCall, ...]:
    """The calls that `pieces` make up, by index."""
    calls: dict[int, list[CallPiece]] = {}
    for piece in pieces:
        calls.setdefault(piece.index, []).append(piece)
    return tuple(
        ToolCall(
            next((piece.id for piece in own if piece.id), ""),
            "".join(piece.name for piece in own),
            "".join(piece.arguments for piece in own),
        )
        for _, own in sorted(calls.items())
    )


def _follows(arguments: dict[str, Any], tool: Tool) -> bool:
    """Whether a call may be made with `arguments`: of a strict tool, only as its schema says."""
    if not tool.strict:
        return True
    from jsonschema import Draft202012Validator

    return bool(Draft202012Validator(json.loads(tool.parameters)).is_valid(arguments))


def with_calls(request: Request, completion: Completion) -> Completion:
    """`completion`, whose text is an engine's own, with the calls taken out of the text."""
    reader = ToolReader(request)
    text = reader.push(completion.text) + reader.finish()
    if not reader.pieces:
        return completion
    reason = reader.reason(completion.finish_reason)
    return replace(completion, text=text, tool_calls=reader.calls, finish_reason=reason)


def read_calls(request: Request, deltas: Iterator[Delta]) -> Iterator[Delta]:
    """`deltas`, whose text is an engine's own, with the calls taken out of the text."""
    reader, text = ToolReader(request), ""
    with closing(cast(Generator[Delta, None, None], deltas)):
        for delta in deltas:
            known = len(reader.pieces)
            shown = reader.push(delta.text) + (reader.finish() if delta.completion is not None else "")
            text += shown
            new = tuple(reader.pieces[known:])
            if delta.completion is None:
                if shown or new or delta.logprobs:
                    yield replace(delta, text=shown, tool_calls=new)
                continue
            if shown or new:
                yield Delta(shown, tool_calls=new)
            reason = reader.reason(delta.completion.finish_reason)
            whole = replace(delta.completion, text=text, tool_calls=reader.calls, finish_reason=reason)
            yield replace(delta, text="", completion=whole)


def _beginning(text: str, tag: str) -> int:
    """Length of the longest end of `text` that `tag` begins with."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)

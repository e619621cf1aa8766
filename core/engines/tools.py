"""Function calls in and out of a text model, the same on every engine that answers in plain text.

In: a chat template that knows `tools` gets them; for one that does not, they are described in the system prompt, and
calls and their results stand in the turns as tagged text. Out: a call is read from the answer's text. A call that the
client demands (`tool_choice`) is enforced through a JSON Schema of its name and arguments.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

from core.types import Completion, Delta, Message, Request, Tool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Round a call in the answer: Hermes' and Qwen's tags, and our own convention for templates without tools."""

_DESCRIPTION = """You may call functions. To call one, answer with only this, and with real arguments:
{open}{{"name": "FUNCTION", "arguments": {{"NAME": VALUE}}}}{close}
The result then comes back between <tool_response> tags. Where no function is needed, just answer.

Functions, each with the JSON Schema of its arguments:
{functions}"""


def forced_schema(request: Request) -> str | None:
    """JSON Schema of the call that `request` demands; None where it leaves the choice to the model."""
    choice = request.tool_choice
    if choice == "required":
        demanded: Sequence[Tool] = request.tools
    elif isinstance(choice, Tool):
        demanded = (choice,)
    else:
        return None
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": json.loads(tool.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in demanded
    ]
    return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


def offered(request: Request) -> tuple[Tool, ...]:
    """The tools that the model is told of."""
    if request.tool_choice == "none":
        return ()
    return (request.tool_choice,) if isinstance(request.tool_choice, Tool) else request.tools


def held_to_choice(request: Request) -> Request:
    """`request` with a demanded call as the schema of its answer."""
    schema = forced_schema(request)
    if schema is None:
        return request
    return replace(request, sampling=replace(request.sampling, json_schema=schema))


def as_text(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """`messages` without tool calls or tool turns, for templates that know none: both become tagged text."""
    turns = [_plain(message) for message in messages]
    if not tools:
        return tuple(turns)
    functions = "\n".join(json.dumps(function(tool), ensure_ascii=False) for tool in tools)
    text = _DESCRIPTION.format(open=OPEN, close=CLOSE, functions=functions)
    if turns and turns[0].role == "system":
        return (Message("system", f"{turns[0].content}\n\n{text}"), *turns[1:])
    return (Message("system", text), *turns)


def function(tool: Tool) -> dict[str, Any]:
    """`tool` as OpenAI's `function` object."""
    strict = {"strict": True} if tool.strict else {}
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters), **strict}


def function_call(call: ToolCall) -> dict[str, Any]:
    """`call` as OpenAI's `tool_calls` entry."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def new_call(name: str, arguments: Any) -> ToolCall:
    """A call with a fresh id; `arguments` is a JSON object, or its text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, text)


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        calls = [f"{OPEN}{_call_text(call)}{CLOSE}" for call in message.tool_calls]
        return Message(message.role, "\n".join([*filter(None, [message.content]), *calls]))
    return message


def _call_text(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}'


class ToolReader:
    """Takes the calls out of an answer's text as it comes; lets out what is certainly none of a call.

    Without tools everything passes at once. A demanded call is the whole answer. Otherwise a call is what stands
    between the tags, or an answer that is nothing but the JSON of calls (Llama's and Mistral's way, whose own markers
    are special tokens and so not in the text). What looks like a call and names no offered function is text.
    """

    def __init__(self, request: Request) -> None:
        self._names = {tool.name: tool for tool in offered(request)} if request.prompt is None else {}
        self._whole = self._names and forced_schema(request) is not None
        self._several = request.parallel_tool_calls
        self._held = ""
        self._white = ""
        self._begun = False
        self.calls: list[ToolCall] = []

    @property
    def done(self) -> bool:
        """The one call that is allowed has come; what follows would be dropped."""
        return bool(self.calls) and not self._several

    def push(self, piece: str) -> str:
        """The text that can be let out now."""
        if not self._names:
            return piece
        if self.done:
            return ""
        self._held += piece
        if self._whole or self._may_be_bare():
            return ""
        return self._released(final=False)

    def finish(self) -> str:
        """The text held back, less the calls in it."""
        if not self._names:
            return ""
        if (self._whole or self._may_be_bare()) and (calls := self._bare(self._held)):
            self._take(calls)
            self._held = ""
            return ""
        return self._released(final=True)

    def _may_be_bare(self) -> bool:
        """Whether the whole answer so far could be the JSON of calls."""
        return not self._begun and self._held.lstrip()[:1] in ("{", "[")

    def _released(self, final: bool) -> str:
        out = ""
        while (at := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, at)
            if end < 0 and not final:
                break
            # The model may end its turn without the closing tag.
            cut = len(self._held) if end < 0 else end + len(CLOSE)
            calls = self._bare(self._held[at + len(OPEN) : cut if end < 0 else end])
            out += self._held[: at if calls else cut]
            self._take(calls)
            self._held = "" if self.done else self._held[cut:]
        if at < 0:
            at = len(self._held) if final else len(self._held) - _beginning(self._held)
        out, self._held = self._white + out + self._held[:at], self._held[at:]
        text = out.rstrip()
        # White space with nothing but calls behind it is no text; what comes is only known at the end.
        self._white = out[len(text) :]
        self._begun = self._begun or bool(text) or bool(self.calls)
        return out if final and not self.calls else text

    def _take(self, calls: Iterable[ToolCall]) -> None:
        self.calls += calls
        if not self._several:
            del self.calls[1:]

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
            found.append(new_call(item["name"], arguments))
        return found


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
    if not reader.calls:
        return completion
    return replace(completion, text=text, tool_calls=tuple(reader.calls), finish_reason="tool_calls")


def read_calls(request: Request, deltas: Iterator[Delta]) -> Iterator[Delta]:
    """`deltas`, whose text is an engine's own, with the calls taken out of the text."""
    reader, text = ToolReader(request), ""
    with closing(cast(Generator[Delta, None, None], deltas)):
        for delta in deltas:
            known = len(reader.calls)
            shown = reader.push(delta.text) + (reader.finish() if delta.completion is not None else "")
            text += shown
            new = tuple(reader.calls[known:])
            if delta.completion is None:
                if shown or new or delta.logprobs:
                    yield replace(delta, text=shown, tool_calls=new)
                continue
            if shown or new:
                yield Delta(shown, tool_calls=new)
            calls = tuple(reader.calls)
            reason = "tool_calls" if calls else delta.completion.finish_reason
            whole = replace(delta.completion, text=text, tool_calls=calls, finish_reason=reason)
            yield replace(delta, text="", completion=whole)


def _beginning(text: str) -> int:
    """Length of the longest end of `text` that OPEN begins with."""
    return next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if text.endswith(OPEN[:n])), 0)

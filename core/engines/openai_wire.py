"""OpenAI's chat completions on the wire: what we send, and what real servers send back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp

from core.engines.tool_reader import joined, new_id
from core.engines.tools import function, function_call
from core.errors import ContextTooLong, EngineError, EngineUnavailable, NotHonoured
from core.types import ANY_OBJECT, CallPiece, FinishReason, Message, Request, TokenLogprob, Tool, ToolCall, Usage

MAX_STOP = 4
"""Stop strings OpenAI accepts; the rest is applied on our side."""

RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)

CLIENT_FIELDS = (
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs", "logit_bias"),
    *("presence_penalty", "frequency_penalty", "temperature", "top_p", "stop", "seed", "prompt"),
)
"""Fields that come from the client: an endpoint that refuses one is not broken."""

CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error")


class Refused(Exception):
    """The endpoint answered with an error, or with something that is not an answer."""

    def __init__(
        self,
        error: EngineError,
        *,
        again: bool = False,
        retry_after_s: float | None = None,
        length_field: str | None = None,
        room: int | None = None,
    ) -> None:
        self.error = error
        self.again = again
        """Whether another attempt may help."""
        self.retry_after_s = retry_after_s
        self.length_field = length_field
        """The name this endpoint wants for the length limit, when that was the trouble."""
        self.room = room
        """Tokens the context window leaves for the answer, when more were asked for."""
        super().__init__(str(error))


class Reply(NamedTuple):
    """A response that has come in whole."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """Found in any case of letters."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Answered(NamedTuple):
    text: str
    reason: FinishReason
    usage: Usage | None
    """None where the server leaves it out."""
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]


class StreamEnd:
    """What a stream says besides its text."""

    def __init__(self) -> None:
        self.reason: FinishReason = "stop"
        self.usage: Usage | None = None
        self.logprobs: list[TokenLogprob] = []
        self.calls: list[CallPiece] = []

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return joined(self.calls)

    def add_calls(self, deltas: Any) -> bool:
        """Pieces of calls, as they are; whether there were any."""
        known = len(self.calls)
        for delta in deltas or ():
            named, index = delta.get("function") or {}, int(delta.get("index") or 0)
            name, arguments = named.get("name") or "", named.get("arguments") or ""
            if not isinstance(arguments, str):
                raise TypeError("arguments are text")
            # From the end: a fragment nearly always belongs to the call before it.
            new = not any(call.index == index for call in reversed(self.calls))
            # A client answers a call by its id, so one that came without gets one.
            id = str(delta.get("id") or (new_id() if new else ""))
            if id or name or arguments:
                self.calls.append(CallPiece(index, id, name, arguments))
        return len(self.calls) > known


def estimated_tokens(text: str) -> int:
    return -(-len(text.encode()) // 3)


def path(request: Request) -> str:
    """Where at the endpoint `request` goes."""
    return "chat/completions" if request.prompt is None else "completions"


def body(request: Request, model: str, length_field: str, *, stream: bool) -> dict[str, Any]:
    """The JSON of a completion request. Defaults are left out: some endpoints refuse fields they do not know."""
    sampling = request.sampling
    value: dict[str, Any] = {"model": model, length_field: sampling.max_tokens, "temperature": sampling.temperature}
    if request.prompt is None:
        value["messages"] = [_turn(message) for message in request.messages]
    else:
        value["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    if sampling.top_p < 1:
        value["top_p"] = sampling.top_p
    if stop := [s for s in sampling.stop if s]:
        value["stop"] = stop[:MAX_STOP]
    if sampling.seed is not None:
        value["seed"] = sampling.seed
    if sampling.presence_penalty:
        value["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        value["frequency_penalty"] = sampling.frequency_penalty
    if sampling.logit_bias:
        value["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.top_logprobs is not None:
        alternatives = {"top_logprobs": sampling.top_logprobs} if sampling.top_logprobs else {}
        value |= {"logprobs": True, **alternatives} if request.prompt is None else {"logprobs": sampling.top_logprobs}
    if sampling.json_schema is not None:
        value["response_format"] = _response_format(sampling.json_schema)
    if request.tools:
        value |= _tools(request)
    if stream:
        value |= {"stream": True, "stream_options": {"include_usage": True}}
    return value


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [function_call(call) for call in message.tool_calls]
        turn["content"] = message.content or None
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _response_format(schema: str) -> dict[str, Any]:
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True}}


def _tools(request: Request) -> dict[str, Any]:
    choice: Any = request.tool_choice
    if isinstance(choice, Tool):
        choice = {"type": "function", "function": {"name": choice.name}}
    value: dict[str, Any] = {
        "tools": [{"type": "function", "function": function(tool)} for tool in request.tools],
        "tool_choice": choice,
    }
    return value if request.parallel_tool_calls else {**value, "parallel_tool_calls": False}


def check(reply: Reply, endpoint: str) -> None:
    """Raises Refused for anything but 200."""
    status = reply.status
    if status == 200:
        return
    message, code, param = _error_of(reply)
    text = f"{endpoint}: {status}: {message}"
    if status == 400 and param == "max_tokens" and code == "unsupported_parameter":
        raise Refused(EngineError(text), length_field="max_completion_tokens")
    if status in (400, 413, 422) and (code in CONTEXT_CODES or _speaks_of_context(message)):
        raise _context_refusal(message, text)
    if status in (401, 403):
        raise Refused(EngineUnavailable(f"{text} (the key is read from TUNEFORK_API_KEY or OPENAI_API_KEY)"))
    if status in (400, 422) and param is not None and param.split(".")[0].split("[")[0] in CLIENT_FIELDS:
        raise Refused(NotHonoured(param, f"the endpoint of this model does not support this request's '{param}'"))
    if status == 404 or code == "insufficient_quota":
        raise Refused(EngineUnavailable(text))
    error = EngineUnavailable(text) if status in (502, 503, 504, 529) else EngineError(text)
    raise Refused(error, again=status in RETRIED, retry_after_s=_retry_after_s(reply.headers))


def answer(reply: Reply, endpoint: str) -> Answered:
    """What a whole answer says.

    Raises:
        Refused: the body is no completion.
    """
    try:
        value = json.loads(reply.body)
        choice = value["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        calls = StreamEnd()
        calls.add_calls([{**call, "index": i} for i, call in enumerate(message.get("tool_calls") or ())])
        return Answered(
            str(message.get("content") or ""),
            _reason(choice.get("finish_reason"), endpoint),
            _usage(value),
            calls.tool_calls,
            logprobs(choice.get("logprobs")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        raise Refused(EngineError(f"{endpoint}: answered with no chat completion: {_short(reply.text)}")) from exc


def logprobs(value: Any) -> tuple[TokenLogprob, ...]:
    """Log probabilities from a choice, in the form of chat completions or in that of completions; () for None."""
    if not value:
        return ()
    if value.get("content") is not None:
        return tuple(_logprob(item) for item in value["content"])
    tops = value.get("top_logprobs") or [None] * len(value.get("tokens") or ())
    return tuple(
        TokenLogprob(
            token, float(logprob), token.encode(), tuple((t, float(lp), t.encode()) for t, lp in (top or {}).items())
        )
        for token, logprob, top in zip(value.get("tokens") or (), value.get("token_logprobs") or (), tops, strict=True)
    )


def _logprob(item: Any) -> TokenLogprob:
    top = tuple((t["token"], float(t["logprob"]), _bytes(t)) for t in item.get("top_logprobs") or ())
    return TokenLogprob(item["token"], float(item["logprob"]), _bytes(item), top)


def _bytes(item: Any) -> bytes:
    return str(item["token"]).encode() if item.get("bytes") is None else bytes(item["bytes"])


async def pieces(parts: AsyncIterable[bytes], endpoint: str, end: StreamEnd) -> AsyncIterator[str]:
    """Text pieces of a server-sent event stream ("" where only something else is new); fills `end`.

    Args:
        parts: the stream's bytes, cut anywhere.

    Raises:
        Refused: the stream breaks off, carries an error, or is no stream of completions.
    """
    finished = False
    try:
        async for line in lines(parts):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                finished = True
                break
            value = json.loads(data)
            if value.get("error"):
                message = value["error"].get("message") if isinstance(value["error"], dict) else value["error"]
                raise Refused(EngineError(f"{endpoint}: {message}"))
            end.usage = _usage(value) or end.usage
            # The chunk with the usage has no choices.
            for choice in value["choices"][:1]:
                if choice.get("finish_reason"):
                    end.reason = _reason(choice["finish_reason"], endpoint)
                    finished = True
                told = logprobs(choice.get("logprobs"))
                end.logprobs += told
                delta = choice.get("delta") or {}
                called = end.add_calls(delta.get("tool_calls"))
                text = delta.get("content") or choice.get("text") or ""
                if text or told or called:
                    yield text
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        shown = _short(line.decode("utf-8", "replace"))
        raise Refused(EngineError(f"{endpoint}: sent what is no chat completion chunk: {shown}")) from exc
    except aiohttp.ClientPayloadError:
        finished = False
    if not finished:
        raise Refused(EngineError(f"{endpoint}: the stream broke off before the answer's end"))


async def lines(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The lines of an event stream, whose ends are LF, CR or both; what follows the last end counts as one too."""
    rest = b""
    async for part in parts:
        rest += part
        # Between CR and LF a cut makes one empty line more, which means nothing.
        end = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1
        if end:
            whole, rest = rest[:end], rest[end:]
            for line in whole.splitlines():
                yield line
    yield rest


def _reason(value: Any, endpoint: str) -> FinishReason:
    if value == "content_filter":
        raise Refused(EngineError(f"{endpoint}: the endpoint's content filter stopped the answer"))
    return value if value in ("length", "tool_calls") else "stop"


def _usage(value: Any) -> Usage | None:
    usage = value.get("usage")
    if not usage:
        return None
    return Usage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))


def _error_of(reply: Reply) -> tuple[str, str | None, str | None]:
    """Message, code and param of an error body, in OpenAI's envelope or another."""
    try:
        value = json.loads(reply.body)
    except ValueError:
        return _short(reply.text) or reply.reason, None, None
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or _short(json.dumps(error))
        code = error.get("code") or error.get("type")
        param = error.get("param")
        return str(message), str(code) if code is not None else None, str(param) if param is not None else None
    return _short(str(error)), None, None


def _speaks_of_context(message: str) -> bool:
    return (
        re.search(r"context (length|size|window)|maximum model length|max_model_len", message, re.IGNORECASE)
        is not None
    )


def _context_refusal(message: str, text: str) -> Refused:
    """ContextTooLong when the message tells the numbers, or the room left where only prompt and answer together are
    too long.

    Known wordings: "maximum context length is 8192 tokens. However, ... 9000 tokens", the same with "(8000 in the
    messages, 1000 in the completion)" (OpenAI, vLLM), "context size (8192 tokens), prompt has 9000 tokens".
    """
    numbers = [int(n) for n in re.findall(r"(\d+)(?: \w+)? tokens", message)]
    if len(numbers) < 2:
        return Refused(EngineError(text))
    window, prompt = min(numbers[:2]), max(numbers[:2])
    parts = re.search(r"(\d+) (?:tokens )?in the (?:messages|prompt|input)", message)
    if parts and int(parts[1]) < window:
        return Refused(EngineError(text), room=window - int(parts[1]))
    return Refused(ContextTooLong(prompt, window))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: retry-after-ms, or Retry-After in seconds or as a date."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        if "retry-after" in headers:
            return max(float(headers["retry-after"]), 0.0)
    except ValueError:
        try:
            return max((parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds(), 0.0)
        except (ValueError, TypeError):
            return None
    return None


def _short(text: str) -> str:
    """The beginning of `text` on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:117] + "..."

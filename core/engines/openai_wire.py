"""OpenAI's chat completions on the wire: what we send, and what real servers send back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from core.errors import ContextTooLong, EngineError, EngineUnavailable
from core.types import FinishReason, Request, Usage

MAX_STOP = 4
"""Stop strings OpenAI accepts; the rest is applied on our side."""

RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)

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


class StreamEnd:
    """What a stream says besides its text."""

    def __init__(self) -> None:
        self.reason: FinishReason = "stop"
        self.usage: Usage | None = None


def estimated_tokens(text: str) -> int:
    return -(-len(text.encode()) // 3)


def body(request: Request, model: str, length_field: str, *, stream: bool) -> dict[str, Any]:
    """The JSON of a chat completion request. Defaults are left out: some endpoints refuse fields they do not know."""
    sampling = request.sampling
    value: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        length_field: sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.top_p < 1:
        value["top_p"] = sampling.top_p
    if stop := [s for s in sampling.stop if s]:
        value["stop"] = stop[:MAX_STOP]
    if sampling.seed is not None:
        value["seed"] = sampling.seed
    if stream:
        value |= {"stream": True, "stream_options": {"include_usage": True}}
    return value


def check(response: httpx.Response, endpoint: str) -> None:
    """Raises Refused for anything but 200; the body must have been read by then."""
    status = response.status_code
    if status == 200:
        return
    message, code, param = _error_of(response)
    text = f"{endpoint}: {status}: {message}"
    if status == 400 and param == "max_tokens" and code == "unsupported_parameter":
        raise Refused(EngineError(text), length_field="max_completion_tokens")
    if status in (400, 413, 422) and (code in CONTEXT_CODES or _speaks_of_context(message)):
        raise _context_refusal(message, text)
    if status in (401, 403):
        raise Refused(EngineUnavailable(f"{text} (the key is read from TUNEFORK_API_KEY or OPENAI_API_KEY)"))
    if status == 404 or code == "insufficient_quota":
        raise Refused(EngineUnavailable(text))
    error = EngineUnavailable(text) if status in (502, 503, 504, 529) else EngineError(text)
    raise Refused(error, again=status in RETRIED, retry_after_s=_retry_after_s(response))


def answer(response: httpx.Response, endpoint: str) -> tuple[str, FinishReason, Usage | None]:
    """Text, finish reason and usage (None where the server leaves it out) of a whole answer.

    Raises:
        Refused: the body is no chat completion.
    """
    try:
        value = response.json()
        choice = value["choices"][0]
        text = choice["message"].get("content") or ""
        return str(text), _reason(choice.get("finish_reason"), endpoint), _usage(value)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        raise Refused(EngineError(f"{endpoint}: answered with no chat completion: {_short(response.text)}")) from exc


async def pieces(response: httpx.Response, endpoint: str, end: StreamEnd) -> AsyncIterator[str]:
    """Text pieces of a server-sent event stream; fills `end`.

    Raises:
        Refused: the stream breaks off, carries an error, or is no stream of completions.
    """
    finished = False
    try:
        async for line in response.aiter_lines():
            field, _, data = line.partition(":")
            if field != "data":
                continue
            data = data.strip()
            if data == "[DONE]":
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
                if text := (choice.get("delta") or {}).get("content"):
                    yield text
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Refused(EngineError(f"{endpoint}: sent what is no chat completion chunk: {_short(line)}")) from exc
    except httpx.RemoteProtocolError:
        finished = False
    if not finished:
        raise Refused(EngineError(f"{endpoint}: the stream broke off before the answer's end"))


def _reason(value: Any, endpoint: str) -> FinishReason:
    if value == "content_filter":
        raise Refused(EngineError(f"{endpoint}: the endpoint's content filter stopped the answer"))
    return "length" if value == "length" else "stop"


def _usage(value: Any) -> Usage | None:
    usage = value.get("usage")
    if not usage:
        return None
    return Usage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))


def _error_of(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """Message, code and param of an error body, in OpenAI's envelope or another."""
    try:
        value = response.json()
    except ValueError:
        return _short(response.text) or response.reason_phrase, None, None
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


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait: retry-after-ms, or Retry-After in seconds or as a date."""
    headers = response.headers
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

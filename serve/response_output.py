"""One response in the making: its items and typed events as the deltas of an answer come.

A whole response and a streamed one go the same way; the first only throws the events away.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from core.types import CallPiece, Completion, Delta, Source, TokenLogprob
from serve.answering import new_id

Json = dict[str, Any]


class Output:
    """The response object, and the events that lead to it."""

    def __init__(self, response: Json, query: str | None, include: Sequence[str]) -> None:
        """
        Args:
            response: the object with everything but its output.
            query: what the documents are searched for; None where nothing is searched.
            include: as the client gave it.
        """
        self.response = response
        self._query = query
        self._include = include
        self._items: list[Json] = response["output"]
        self._search: Json | None = None
        self._message: int | None = None
        """The item of the message that is being written."""
        self._calls: dict[int, int] = {}
        """Of each call, the place of its item."""
        self._open: int | None = None
        """The item of the call that is being written."""
        self._logprobs: list[Json] = []
        """Of the message's tokens."""
        self._silent: list[Json] = []
        """Of tokens that let out no text yet: the next text is theirs, or a call that has none."""
        self._number = 0

    def start(self) -> Iterator[Json]:
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())
        if self._query is None:
            return
        self._search = {"id": new_id("fs_"), "type": "file_search_call", "status": "in_progress"}
        self._search |= {"queries": [self._query], "results": None}
        self._items.append(self._search)
        yield self._event("response.output_item.added", output_index=0, item=dict(self._search))
        for step in ("in_progress", "searching"):
            yield self._event(f"response.file_search_call.{step}", output_index=0, item_id=self._search["id"])

    def add(self, delta: Delta) -> Iterator[Json]:
        """What a delta brings: text, calls, and with the last one the end."""
        if self._search is not None and self._search["status"] != "completed":
            self._search["status"] = "completed"
            yield self._event("response.file_search_call.completed", output_index=0, item_id=self._search["id"])
            if not self._with_results:
                yield self._event("response.output_item.done", output_index=0, item=dict(self._search))
        self._silent += [_logprob(lp) for lp in delta.logprobs]
        if delta.text:
            yield from self._text(delta.text)
        for piece in delta.tool_calls:
            yield from self._piece(piece)
        if delta.completion is not None:
            yield from self._end(delta.completion)

    def fail(self, message: str) -> Iterator[Json]:
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        yield self._event("response.failed", response=self._snapshot())

    @property
    def _with_results(self) -> bool:
        """Whether the search is done only when the answer is, with which its results come."""
        return "file_search_call.results" in self._include

    def _text(self, text: str) -> Iterator[Json]:
        if self._message is None:
            yield from self._open_message()
        assert self._message is not None
        part = self._items[self._message]["content"][0]
        part["text"] += text
        logprobs, self._silent = self._silent, []
        self._logprobs += logprobs
        yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)

    def _open_message(self) -> Iterator[Json]:
        yield from self._close_call("completed")
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item: Json = {"id": new_id("msg_"), "type": "message", "role": "assistant", "status": "in_progress"}
        self._message, self._logprobs = len(self._items), []
        yield self._event("response.output_item.added", output_index=self._message, item={**item, "content": []})
        self._items.append({**item, "content": [part]})
        yield self._event("response.content_part.added", **self._place(), part={**part, "annotations": []})

    def _piece(self, piece: CallPiece) -> Iterator[Json]:
        self._silent = []
        if piece.index not in self._calls:
            if self._message is not None and self._search is None:
                # What a text cites is known at the answer's end: one that may cite stays open until then.
                yield from self._close_message((), "completed")
            yield from self._close_call("completed")
            self._calls[piece.index] = len(self._items)
            item = {"id": new_id("fc_"), "type": "function_call", "status": "in_progress", "call_id": piece.id}
            self._items.append({**item, "name": piece.name, "arguments": ""})
            yield self._event(
                "response.output_item.added", output_index=self._calls[piece.index], item=dict(self._items[-1])
            )
        self._open = self._calls[piece.index]
        if piece.arguments:
            item = self._items[self._open]
            item["arguments"] += piece.arguments
            place = {"output_index": self._open, "item_id": item["id"]}
            yield self._event("response.function_call_arguments.delta", **place, delta=piece.arguments)

    def _close_call(self, status: str) -> Iterator[Json]:
        if self._open is None:
            return
        item = self._items[self._open]
        item["status"] = status
        place = {"output_index": self._open, "item_id": item["id"]}
        yield self._event(
            "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
        )
        yield self._event("response.output_item.done", output_index=self._open, item=dict(item))
        self._open = None

    def _end(self, end: Completion) -> Iterator[Json]:
        cut = end.finish_reason == "length"
        if self._message is None and not end.tool_calls:
            yield from self._open_message()
        if self._message is not None and self._silent:
            yield from self._text("")
        yield from self._close_call("incomplete" if cut else "completed")
        if self._message is not None:
            yield from self._close_message(end.sources, "incomplete" if cut else "completed")
        if self._search is not None and self._with_results:
            self._search["results"] = [_result(source) for source in end.sources]
            yield self._event("response.output_item.done", output_index=0, item=dict(self._search))
        usage = end.usage
        self.response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        self.response["status"] = "incomplete" if cut else "completed"
        if cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        yield self._event(f"response.{self.response['status']}", response=self._snapshot())

    def _close_message(self, sources: Sequence[Source], status: str) -> Iterator[Json]:
        assert self._message is not None
        item = self._items[self._message]
        part = item["content"][0]
        if "message.output_text.logprobs" in self._include:
            part["logprobs"] = self._logprobs
        part["annotations"] = citations(part["text"], sources)
        for number, annotation in enumerate(part["annotations"]):
            yield self._event(
                "response.output_text.annotation.added",
                **self._place(),
                annotation_index=number,
                annotation=annotation,
            )
        yield self._event("response.output_text.done", **self._place(), text=part["text"], logprobs=part["logprobs"])
        yield self._event("response.content_part.done", **self._place(), part=dict(part))
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._message, item=dict(item))
        self._message = None

    def _place(self) -> Json:
        assert self._message is not None
        return {"output_index": self._message, "item_id": self._items[self._message]["id"], "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _snapshot(self) -> Json:
        return {**self.response, "output": list(self._items)}


def citations(text: str, sources: Sequence[Source]) -> list[Json]:
    """A file_citation at each [number] in the text; where the text names none, one at its end for each passage."""
    by_number = {source.number: source for source in sources}
    marks = [(m.start(), by_number[int(m[1])]) for m in re.finditer(r"\[(\d{1,4})\]", text) if int(m[1]) in by_number]
    return [
        {
            "type": "file_citation",
            "index": index,
            "file_id": source.document_id,
            "filename": source.title or source.document_id,
        }
        for index, source in marks or [(len(text), source) for source in sources]
    ]


def _result(source: Source) -> Json:
    return {
        "file_id": source.document_id,
        "filename": source.title or source.document_id,
        "score": source.score,
        "text": source.text,
        "attributes": dict(source.metadata),
    }


def _logprob(item: TokenLogprob) -> Json:
    top = [{"token": t, "logprob": lp, "bytes": list(raw)} for t, lp, raw in item.top]
    return {"token": item.token, "logprob": item.logprob, "bytes": list(item.raw), "top_logprobs": top}

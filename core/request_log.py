"""What a use case was asked in service and what people said of the answers: the server writes it, the advisor reads it.

use_cases/NAME/log/requests.jsonl holds an answered request a line, feedback.jsonl a judgement a line. Only a judgement
that gives a right answer makes an item: an answer that somebody called good, or the one they say was expected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.files import read_own_jsonl, write_text
from core.workspace import UseCaseFolder


def requests_path(folder: UseCaseFolder) -> Path:
    """Rows `{"request_id", "created", "model", "messages": [{"role", "content"}], "answer"}`, and "arm" during a canary."""
    return folder.path / "log" / "requests.jsonl"


def feedback_path(folder: UseCaseFolder) -> Path:
    """Rows `{"request_id", "created", "rating": "good" | "bad" | null, "expected": text | null, "comment"}`."""
    return folder.path / "log" / "feedback.jsonl"


def find_request(folder: UseCaseFolder, request_id: str) -> dict[str, Any] | None:
    """The logged request of that id."""
    path = requests_path(folder)
    if not path.exists():
        return None
    wanted = json.dumps(request_id)
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if wanted in line:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # torn by a killed server
                if row.get("request_id") == request_id:
                    found: dict[str, Any] = row
                    return found
    return None


def write_eval_set(folder: UseCaseFolder) -> Path:
    """Make log/eval.jsonl of what the feedback says is right; returns its path.

    The last word on a request counts, and of requests that ask the same the one last judged.

    Raises:
        DataError: no judgement gives a right answer; says how to get some.
    """
    rows = {json.dumps(row["messages"]): row for row in _items(folder)}
    path = folder.path / "log" / "eval.jsonl"
    if not rows:
        raise DataError(
            f"use case {folder.name!r} has no feedback that gives a right answer yet: serve it with --log-requests, and"
            f" post judgements to /v1/use_cases/{folder.name}/feedback"
        )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()))
    return path


def _items(folder: UseCaseFolder) -> Iterator[dict[str, Any]]:
    asked = {row["request_id"]: row for row in read_own_jsonl(requests_path(folder))}
    for said in said_last(read_own_jsonl(feedback_path(folder))):
        request_id = said["request_id"]
        request = asked.get(request_id)
        right = said.get("expected") or (request and said.get("rating") == "good" and request["answer"])
        if request is not None and right:
            yield {"id": request_id, "messages": request["messages"], "output": right, "tags": ["log"]}


def said_last(feedback: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last judgement of each request, in the order they were made."""
    last: dict[str, Mapping[str, Any]] = {}
    for said in feedback:
        last.pop(said["request_id"], None)
        last[said["request_id"]] = said
    return list(last.values())

"""Answers by content: the same model, prompt and decoding are asked once, whatever run asks again.

The cache is what makes `advise` resumable: every answer is on the disk as soon as
it is there, so a stopped or killed run goes on where it was. Failed calls are not
kept; the next run tries them again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.engines.base import Engine, Result
from core.errors import EngineError
from core.files import append_jsonl, read_own_jsonl, sha256_text
from core.progress import progress
from core.types import Completion, Request, Usage


@dataclass(frozen=True)
class Answers:
    """Results of one arm in the order of its requests."""

    results: tuple[Result, ...]
    cached: int
    """How many came from the cache."""
    elapsed_s: float
    """Wall time all of them took when they were asked; cached ones count with what they cost then."""
    new_s: float = 0.0
    """Wall time of asking those that were not in the cache, failed ones too."""


class AnswerCache:
    """Answers in one JSONL file, keyed by everything that shapes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {row["key"]: row for row in read_own_jsonl(path)}

    def text(self, identity: str, request: Request) -> str | None:
        """The answer that is there already; None where there is none."""
        found = self._known.get(_key(identity, request))
        return None if found is None else str(found["text"])

    def ask(self, what: str, engine: Engine, identity: str, requests: Sequence[Request]) -> Answers:
        """Answers to `requests`, from the cache where they are known.

        Args:
            what: name of the progress bar.
            identity: which model answers, with the hash of its adapter; part of the key.

        Raises:
            EngineUnavailable: the engine is gone; answers it had given are kept.
        """
        keys = [_key(identity, request) for request in requests]
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._known}
        todo = sorted(first.values())
        failed: dict[str, EngineError] = {}
        started = time.monotonic()
        if todo:
            last = started
            with progress(what, len(todo)) as advance:

                def done(i: int, result: Result) -> None:
                    nonlocal last
                    now = time.monotonic()
                    if not isinstance(result, EngineError):
                        self._keep(keys[todo[i]], result, now - last)
                    last = now
                    advance(1)

                results = engine.complete([requests[i] for i in todo], on_done=done)
            failed = {keys[i]: r for i, r in zip(todo, results, strict=True) if isinstance(r, EngineError)}
        return Answers(
            tuple(failed[key] if key in failed else _completion(self._known[key]) for key in keys),
            cached=len(requests) - len(todo),
            elapsed_s=sum(self._known[key]["elapsed_s"] for key in keys if key not in failed),
            new_s=time.monotonic() - started if todo else 0.0,
        )

    def _keep(self, key: str, completion: Completion, elapsed_s: float) -> None:
        row = {
            "key": key,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "input_tokens": completion.usage.prompt_tokens,
            "output_tokens": completion.usage.completion_tokens,
            "latency_s": round(completion.latency_s, 4),
            "elapsed_s": round(elapsed_s, 4),
        }
        if completion.attempts > 1:
            row["attempts"] = completion.attempts
        self._known[key] = row
        append_jsonl(self._path, row)


def _key(identity: str, request: Request) -> str:
    messages = [asdict(message) for message in request.messages]
    return sha256_text(json.dumps([identity, messages, asdict(request.sampling)], ensure_ascii=False))


def _completion(row: dict[str, Any]) -> Completion:
    usage = Usage(row["input_tokens"], row["output_tokens"])
    return Completion(row["text"], row["finish_reason"], usage, row["latency_s"], attempts=row.get("attempts", 1))

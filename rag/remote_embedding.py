"""An embedding model behind any OpenAI-compatible endpoint (`POST .../embeddings`)."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
import numpy as np

from core.engines import openai_wire as wire
from core.engines.retries import Breaker, Retrying
from core.errors import EngineError, EngineTimeout, EngineUnavailable
from rag.embedding import Vectors, unit

BATCH = 128
"""Texts a request: of 400 tokens each, well within the 300,000 tokens and 2,048 texts that OpenAI takes."""

MAX_TOKENS = 400
"""Every embedding model in use reads this much."""

TIMEOUT_S = 120.0

_TOKENS = re.compile(r"[^\W_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,4}|\S")


class RemoteEncoder:
    """Asks an endpoint. The first request, one word, tells the vectors' length."""

    def __init__(
        self,
        model: str,
        base_url: str,
        fingerprint: str,
        query_prefix: str = "",
        passage_prefix: str = "",
        retrying: Retrying | None = None,
    ) -> None:
        """
        Raises:
            EngineError: the endpoint cannot be reached, refuses, or gives no embedding.
        """
        parts = urlsplit(base_url)
        self.name = f"{model}@{base_url}"
        self.fingerprint = fingerprint
        self.languages: tuple[str, ...] = ()
        self.max_tokens = MAX_TOKENS
        self._model = model
        self._url = base_url.rstrip("/") + ("" if parts.path.strip("/") else "/v1") + "/embeddings"
        self._prefixes = query_prefix, passage_prefix
        self._retrying = retrying or Retrying()
        self._breaker = Breaker()
        key = os.environ.get("TUNEFORK_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_S,
            # A proxy from the environment is for the world outside, not for a server on this machine.
            trust_env=parts.hostname not in ("127.0.0.1", "localhost", "::1"),
        )
        self._turn = threading.Lock()
        self.dimensions = 0
        self.dimensions = len(self._batch(["dimensions"])[0])

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Estimated: four letters a token, a sign or a Chinese, Japanese or Korean character each."""
        return [[match.span() for match in _TOKENS.finditer(text)] for text in texts]

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._prefixes[1])

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._prefixes[0])

    def _encode(self, texts: Sequence[str], prefix: str) -> Vectors:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for at in range(0, len(texts), BATCH):
            batch = [prefix + text for text in texts[at : at + BATCH]]
            vectors[at : at + BATCH] = self._batch(batch)
        return unit(vectors)

    def _batch(self, texts: list[str]) -> Vectors:
        """The vectors as the endpoint gives them, after as many attempts as it is worth."""
        attempt = 0
        while True:
            self._breaker.check(self._url)
            attempt += 1
            try:
                with self._turn:
                    response = self._client.post(
                        self._url, json={"model": self._model, "input": texts, "encoding_format": "float"}
                    )
                headers, body = response.headers, response.content
                wire.check(wire.Reply(response.status_code, response.reason_phrase, headers, body), self._url)
                vectors = self._read(response, len(texts))
            except wire.Refused as exc:
                error, wait_s, again = exc.error, exc.retry_after_s, exc.again
            except httpx.TimeoutException as exc:
                error, wait_s, again = EngineTimeout(f"{self._url}: no answer within {TIMEOUT_S:g} s"), None, True
                error.__cause__ = exc
            except (httpx.TransportError, httpx.InvalidURL) as exc:
                error = EngineUnavailable(f"{self._url}: cannot be reached ({str(exc) or type(exc).__name__})")
                error.__cause__ = exc
                wait_s, again = None, isinstance(exc, httpx.TransportError)
            else:
                self._breaker.succeeded()
                return vectors
            if not again or attempt >= self._retrying.attempts:
                if isinstance(error, EngineUnavailable):
                    self._breaker.failed()
                raise error
            time.sleep(self._retrying.pause_s(attempt, wait_s))

    def _read(self, response: httpx.Response, count: int) -> Vectors:
        """The vectors in the order of the texts, whatever order they came in."""
        try:
            rows = {int(one["index"]): one["embedding"] for one in response.json()["data"]}
            vectors = np.array([rows[i] for i in range(count)], np.float32)
        except (ValueError, KeyError, TypeError) as exc:
            raise EngineError(f"{self._url}: the answer holds no embeddings for {count} texts") from exc
        if vectors.ndim != 2 or len(rows) != count or not np.isfinite(vectors).all():
            raise EngineError(f"{self._url}: the answer holds no embeddings for {count} texts")
        if self.dimensions and vectors.shape[1] != self.dimensions:
            raise EngineError(
                f"{self._url}: gives vectors of {vectors.shape[1]} dimensions now, {self.dimensions} before"
            )
        return vectors

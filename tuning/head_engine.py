"""A trained head as an engine: it answers a chat with the label of its last user turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.engines.base import OnDone, Result
from core.errors import EngineError, EngineUnavailable
from core.types import Completion, Delta, Request, Usage
from tuning.adapters import check_base
from tuning.device import pick_device
from tuning.encoder import Encoder
from tuning.head import Head, Logits, load_head_weights

ENCODER = "encoder"
"""Folder, in the head's, of an encoder whose layers were trained along; absent where the base encoder serves."""


class HeadEngine:
    """Thread-safe. Sampling settings do not apply: the answer is the most probable label, always."""

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        model: str,
        abstain_below: float | None = None,
        abstain_answer: str = "",
    ) -> None:
        self._encoder: Encoder | None = encoder
        self._head = head
        self._model = model
        self._abstain_below = abstain_below
        self._abstain_answer = abstain_answer

    @property
    def model(self) -> str:
        """Name of the sentence encoder."""
        return self._model

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of `probabilities`."""
        return self._head.labels

    @property
    def context_window(self) -> int | None:
        """None: no text is too long, the encoder reads its beginning."""
        return None

    def count_tokens(self, text: str) -> int:
        return self._open().count_tokens(text)

    def probabilities(self, texts: Sequence[str]) -> Logits:
        """Calibrated probabilities, [texts, labels]."""
        return self._head.probabilities(self._open().encode(texts))

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """One label a request; the requests of a call are encoded together."""
        start = time.perf_counter()
        texts = [_last_user_turn(request) for request in requests]
        asked = [text for text in texts if text is not None]
        rows = iter(self.probabilities(asked) if asked else ())
        results: list[Result] = []
        for i, text in enumerate(texts):
            result: Result
            if text is None:
                result = EngineError("a classification head needs a user message to classify; there is none")
            else:
                answer = self._answer(next(rows))
                usage = Usage(self.count_tokens(text), self.count_tokens(answer))
                result = Completion(answer, "stop", usage, time.perf_counter() - start)
            results.append(result)
            if on_done is not None:
                on_done(i, result)
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        """The label as one piece."""
        result = self.complete([request])[0]
        if isinstance(result, EngineError):
            raise result
        yield Delta(result.text, result)

    def close(self) -> None:
        self._encoder = None

    def _answer(self, probabilities: Logits) -> str:
        best = int(probabilities.argmax())
        if self._abstain_below is not None and probabilities[best] < self._abstain_below:
            return self._abstain_answer
        return self._head.labels[best]

    def _open(self) -> Encoder:
        if self._encoder is None:
            raise EngineUnavailable(f"the head on {self._model!r} is closed")
        return self._encoder


def load_head(folder: Path, models: Path) -> HeadEngine:
    """The engine of the head in `folder`; `models` holds converted starter models.

    Raises:
        ArtifactError: the head is damaged, or belongs to another encoder than the one of that name here.
    """
    from core.models import local_folder
    from tuning.adapters import load_origin

    origin = load_origin(folder)
    device = pick_device("auto")
    if (folder / ENCODER).is_dir():
        encoder = Encoder(folder / ENCODER, device)
    else:
        base = local_folder(origin.base_model, models)
        check_base(folder, origin.base_model, base)
        encoder = Encoder(base, device)
    head = load_head_weights(folder)
    recipe = origin.recipe
    return HeadEngine(
        encoder, head, origin.base_model, recipe.get("abstain_below"), str(recipe.get("abstain_answer", ""))
    )


def _last_user_turn(request: Request) -> str | None:
    return next((m.content for m in reversed(request.messages) if m.role == "user"), None)

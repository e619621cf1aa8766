"""A trained head as an engine: it answers a chat with the label (or labels, or number) of its last user turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.engines.base import OnDone, Result
from core.errors import EngineError, EngineUnavailable, NotHonoured
from core.types import Completion, Delta, Request, TokenLogprob, Usage
from tuning.adapters import check_base
from tuning.device import pick_device
from tuning.encoder import BaseStates, Encoder, Featurizer
from tuning.head import Head, Logits, load_head_weights

ENCODER = "encoder"
"""Folder, in the head's, of an encoder whose layers were trained along; absent where the base encoder serves."""


class HeadEngine:
    """Thread-safe. Sampling settings do not apply: the answer is the most probable label, always."""

    def __init__(
        self,
        encoder: Featurizer,
        head: Head,
        model: str,
        abstain_below: float | None = None,
        abstain_answer: str = "",
    ) -> None:
        self._encoder: Featurizer | None = encoder
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
        """Calibrated probabilities, [texts, labels]; the value itself, [texts, 1], where the answer is a number."""
        return self._head.probabilities(self._open().encode(texts), texts)

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """One label a request; the requests of a call are encoded together."""
        start = time.perf_counter()
        refused = [_refusal(request) for request in requests]
        texts = [_last_user_turn(request) for request in requests]
        asked = [text for text, no in zip(texts, refused, strict=True) if text is not None and no is None]
        rows = iter(self.probabilities(asked) if asked else ())
        results: list[Result] = []
        for i, (text, no) in enumerate(zip(texts, refused, strict=True)):
            result: Result
            if no is not None:
                result = no
            elif text is None:
                result = EngineError("a classification head needs a user message to classify; there is none")
            else:
                row: Logits = next(rows)
                answer = self._answer(row)
                usage = Usage(self.count_tokens(text), self.count_tokens(answer))
                logprobs = self._logprobs(answer, row, requests[i].sampling.top_logprobs)
                result = Completion(answer, "stop", usage, time.perf_counter() - start, logprobs=logprobs)
            results.append(result)
            if on_done is not None:
                on_done(i, result)
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        """The label as one piece."""
        result = self.complete([request])[0]
        if isinstance(result, EngineError):
            raise result
        yield Delta(result.text, result, logprobs=result.logprobs or ())

    def close(self) -> None:
        self._encoder = None

    def _answer(self, probabilities: Logits) -> str:
        if self._abstain_below is not None and self._head.confidence(probabilities) < self._abstain_below:
            return self._abstain_answer
        return self._head.answer(probabilities)

    def _logprobs(self, answer: str, probabilities: Logits, top: int | None) -> tuple[TokenLogprob, ...] | None:
        """The label as one token, with its calibrated probability and those of the next best labels."""
        if top is None or self._head.task == "number":
            return None
        logs = [(label, float(np.log(max(p, 1e-12)))) for label, p in zip(self.labels, probabilities, strict=True)]
        logs.sort(key=lambda item: -item[1])
        # An abstention is no label: its probability is that of the label it stands in for.
        logprob = dict(logs).get(answer, logs[0][1])
        if self._head.task == "multi":
            logprob = float(np.log(max(self._head.confidence(probabilities), 1e-12)))
        best = tuple((label, lp, label.encode()) for label, lp in logs[:top])
        return (TokenLogprob(answer, logprob, answer.encode(), best),)

    def _open(self) -> Featurizer:
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
    encoder: Featurizer
    if (folder / ENCODER).is_dir():
        encoder = Encoder(folder / ENCODER, device)
    else:
        base = local_folder(origin.base_model, models)
        check_base(folder, origin.base_model, base)
        encoder = BaseStates(base, device) if origin.recipe.get("features") == "base" else Encoder(base, device)
    head = load_head_weights(folder)
    recipe = origin.recipe
    return HeadEngine(
        encoder, head, origin.base_model, recipe.get("abstain_below"), str(recipe.get("abstain_answer", ""))
    )


def _refusal(request: Request) -> NotHonoured | None:
    """Why a label cannot be the answer to `request`."""
    sampling = request.sampling
    asked = {
        "prompt": request.prompt is not None,
        "response_format": sampling.json_schema is not None,
        "tools": bool(request.tools),
        "logit_bias": bool(sampling.logit_bias),
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
    }
    param = next((name for name, given in asked.items() if given), None)
    return (
        None
        if param is None
        else NotHonoured(param, f"a classification head answers with a label; it takes no '{param}'")
    )


def _last_user_turn(request: Request) -> str | None:
    return next((m.content for m in reversed(request.messages) if m.role == "user"), None)

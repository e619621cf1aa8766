"""The embedded default: a transformers model in this process, many requests in one running batch."""

from __future__ import annotations

import atexit
import inspect
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from core.engines import attention, packing
from core.engines.base import OnDone, Result
from core.engines.collect import Out, collect, pieces
from core.engines.decoding import Decoder, masks_of
from core.engines.lora import AdapterBank
from core.engines.pushing import Pushed, Sink
from core.engines.sampling import Scored
from core.engines.scheduling import Ask, Call, Scheduler
from core.engines.tokens import ChatTokenizer, generation_ends
from core.engines.tools import held_to_choice
from core.errors import ContextTooLong, EngineError, EngineUnavailable, NotHonoured
from core.openmp import brief_team
from core.types import Delta, Request, TokenLogprob

MAX_ROWS = 64
"""Rows of the running batch."""

PREFILL_TOKENS = 2048
"""Prompt tokens taken in between two decode steps."""

CACHE_BYTES_CPU = 1 << 29
"""Keys and values of the running batch on a CPU; a graphics card gives half of what the weights leave free."""


class TransformersEngine:
    """A model folder, answering. Loaded at construction."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        dtype: torch.dtype | None = None,
        max_rows: int = MAX_ROWS,
        reuse_prefixes: bool = True,
    ) -> None:
        """
        Args:
            name: the model's name as the user wrote it.
            dtype: None: bf16 where the hardware multiplies it, else fp32.
            reuse_prefixes: keep the keys and values of prompt beginnings that several requests share.

        Raises:
            EngineUnavailable: the folder's model cannot be loaded, or is of a kind this engine cannot batch.
        """
        self._name = name
        self._tokens = ChatTokenizer(folder)
        self._model = load_model(folder, dtype)
        self._window = _context_window(self._model.config, self._tokens)
        self._bank = AdapterBank(self._model, name)
        self._vocabulary = int(self._model.config.get_text_config().vocab_size)
        ends = self._tokens.end_ids | generation_ends(folder)
        # Most answers need no grammar, and reading the tokenizer for them takes some tenths of a second.
        self._grammars = cache(lambda: self._tokens.grammars(self._vocabulary, ends))
        columns = _cache_columns(self._model)
        self._scheduler = Scheduler(
            Decoder(
                self._model,
                self._bank,
                prefill_tokens=PREFILL_TOKENS,
                prefix_tokens=columns // 4 if reuse_prefixes else 0,
            ),
            self._bank,
            self._tokens.text,
            ends,
            self._report,
            max_rows=max_rows,
            max_columns=columns,
        )
        self._closed = False
        # The worker must not be inside torch when the interpreter tears down.
        atexit.register(self.close)

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._window

    def count_tokens(self, text: str) -> int:
        return len(self._tokens.ids(text))

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """Answers in order. When the calling thread is interrupted, what it asked for is withdrawn."""
        out: Out = SimpleQueue()
        call = Call(out, deltas=False)
        asks = []
        for index, request in enumerate(requests):
            ask = self._ask(index, request, call)
            if isinstance(ask, Ask):
                asks.append(ask)
            else:
                out.put((index, ask))
        try:
            self._scheduler.submit(asks)
            return collect(out, len(requests), on_done)
        except BaseException:
            self._scheduler.cancel(call)
            raise

    def stream(self, request: Request) -> Iterator[Delta]:
        out: Out = SimpleQueue()
        call = Call(out, deltas=True)
        ask = self._ask(0, request, call)
        if not isinstance(ask, Ask):
            raise ask
        self._scheduler.submit([ask])
        try:
            yield from pieces(out)
        finally:
            self._scheduler.cancel(call)

    def push(self, request: Request, sink: Sink) -> None:
        """As core.engines.pushing.push: `sink` is called in the thread that owns the model."""
        pushed = Pushed(sink)
        call = Call(pushed, deltas=True)
        ask = self._ask(0, request, call)
        if not isinstance(ask, Ask):
            raise ask

        def cancel() -> None:
            self._scheduler.cancel(call)
            ask.end(EngineError("the answer was not wanted"))

        self._scheduler.submit([ask])
        try:
            pushed.wait(cancel)
        finally:
            self._scheduler.cancel(call)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._scheduler.close()
        del self._model, self._bank

    def _ask(self, index: int, request: Request, call: Call) -> Ask | EngineError:
        try:
            request = held_to_choice(request)
            prompt = self._tokens.prompt(request)
            sampling = request.sampling
            if any(not 0 <= token < self._vocabulary for token, _ in sampling.logit_bias):
                raise NotHonoured("logit_bias", f"logit_bias names a token id outside the model's {self._vocabulary}")
            schema = sampling.json_schema
            constraint = None if schema is None else self._grammars().constraint(schema)
        except EngineError as exc:
            return exc
        max_new = sampling.max_tokens
        if self._window is not None:
            if len(prompt) + 1 > self._window:
                return ContextTooLong(len(prompt), self._window)
            max_new = min(max_new, self._window - len(prompt))
        return Ask(index, request, prompt, max_new, call, constraint)

    def _report(self, scored: Scored) -> TokenLogprob:
        token, written = self._written(scored.token)
        top = tuple((*self._written(other), logprob) for other, logprob in scored.top)
        return TokenLogprob(token, scored.logprob, written, tuple((text, lp, raw) for text, raw, lp in top))

    def _written(self, token: int) -> tuple[str, bytes]:
        raw = self._grammars().token_bytes(token)
        return raw.decode("utf-8", "backslashreplace"), raw


@brief_team()
def load_model(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """The causal language model in `folder`, in eval mode, on the graphics card where there is one.

    Raises:
        EngineUnavailable: it cannot be loaded, or its forward pass lacks what batching needs.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or best_dtype(device), local_files_only=True, use_safetensors=True
        )
    except Exception as exc:  # loaders raise whatever a damaged file makes them trip over
        lines = str(exc).strip().splitlines()
        raise EngineUnavailable(f"{folder}: the model cannot be loaded ({lines[0] if lines else exc!r})") from exc
    missing = {"position_ids", "logits_to_keep"} - set(inspect.signature(model.forward).parameters)
    if missing:
        raise EngineUnavailable(
            f"{folder}: models of type {model.config.model_type!r} cannot be batched in process"
            f" (no {', '.join(sorted(missing))}); use the vllm engine, or MODEL@URL"
        )
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # SDPA leaves the cap out
    elif model.config._attn_implementation == "sdpa":
        attention.register()
        model.set_attn_implementation(attention.NAME)
    masks_of(config)  # refuses what cannot be batched, before a forward pass trips over it
    model = model.to(device).eval().requires_grad_(False)
    packing.pack(model)
    return model


def best_dtype(device: str) -> torch.dtype:
    """bf16 where the hardware multiplies it; on other CPUs torch emulates it, several times slower than fp32."""
    if device != "cpu":
        return torch.bfloat16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _context_window(config: Any, tokens: ChatTokenizer) -> int | None:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(window) if window else tokens.max_length


def _cache_columns(model: Any) -> int:
    """Columns of keys and values (one token in all layers) that the running batch may hold."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    column_bytes = 2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize
    free = CACHE_BYTES_CPU
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0] // 2
    return int(max(free // column_bytes, 1))

"""Holds an answer to a JSON Schema while it is decoded, by llguidance: only tokens that can still lead there are allowed."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from core.errors import EngineError, NotHonoured

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions
    from numpy.typing import NDArray

KEPT = 64
"""Compiled schemas that are kept."""

_WRITING: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write the white space: where it is free, a small model can write blanks until its length is used up."""


def schema_error(schema: str) -> str | None:
    """Why answers cannot be held to `schema` (JSON text); None when they can."""
    if not isinstance(json.loads(schema), dict):
        return "a JSON Schema is an object"
    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    return _first_line(messages[0]) if failed else None


class Constraint:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._mask: NDArray[np.uint8] = np.zeros(-(-vocabulary // 32) * 4, np.uint8)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, one flag a token of the vocabulary (rounded up to 32)."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.size)
        self._check()
        return np.unpackbits(self._mask, bitorder="little").view(np.bool_)

    def take(self, token: int) -> None:
        """Note that `token` was picked."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Nothing but the end of the answer can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"the schema cannot be followed: {_first_line(self._matcher.get_error())}")


class Grammars:
    """Compiles schemas for one tokenizer. Thread-safe."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end_ids: frozenset[int]) -> None:
        """
        Args:
            tokenizer_json: the tokenizer, as `tokenizers` writes it, without padding or truncation.
            vocabulary: width of the model's logits, which may be above the tokenizer's.
        """
        self._arguments: Any = (tokenizer_json, vocabulary, sorted(end_ids))
        self._tokenizer: LLTokenizer | None = None
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._turn = threading.Lock()

    def constraint(self, schema: str) -> Constraint:
        """A constraint at its beginning. Raises NotHonoured when `schema` holds what cannot be enforced."""
        with self._turn:
            known = self._compiled.get(schema)
            if known is None:
                known = LLMatcher(self._llguidance(), _grammar(schema), log_level=0)
                if known.is_error():
                    raise NotHonoured(
                        "response_format", f"the schema is not supported: {_first_line(known.get_error())}"
                    )
                self._compiled[schema] = known
                while len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(schema)
            return Constraint(known.deep_copy(), self._vocabulary)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` writes."""
        with self._turn:
            return bytes(self._llguidance().decode_bytes([token]))

    def _llguidance(self) -> LLTokenizer:
        # Made on first use: it takes some tenths of a second, and most answers need none.
        if self._tokenizer is None:
            tokenizer_json, vocabulary, ends = self._arguments
            self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=ends or None)
        return self._tokenizer


def _grammar(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=_WRITING)


def _first_line(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[0] if lines else "no reason given"

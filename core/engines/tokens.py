"""A model's own words for a chat: template, token ids, end-of-turn tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import EngineError, EngineUnavailable
from core.types import Message


class ChatTokenizer:
    """Tokenizer and chat template of a model folder. Thread-safe.

    transformers' tokenizers keep state (padding, truncation) that an encode sets, and raise "Already borrowed" when
    two threads meet there; hence the lock around every call.
    """

    def __init__(self, folder: Path) -> None:
        """Raises EngineUnavailable when the folder has no tokenizer that can be read."""
        from transformers import AutoTokenizer

        self._folder = folder
        self._lock = threading.Lock()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as exc:
            raise EngineUnavailable(f"{folder}: its tokenizer cannot be read ({_first_line(exc)})") from exc
        self._end_of_turn = self._find_end_of_turn()

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer by the tokenizer's and the template's account; a generation config may add more."""
        ids = {self._tokenizer.eos_token_id, self._end_of_turn}
        return frozenset(i for i in ids if i is not None)

    @property
    def max_length(self) -> int | None:
        """Longest input the tokenizer's files claim; None when they claim nothing (a huge number stands there then)."""
        length = self._tokenizer.model_max_length
        return int(length) if length is not None and length < 10**9 else None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text of `messages`, ready for the assistant's answer.

        Raises:
            EngineError: the model has no chat template, or its template refuses these messages.
        """
        if self._tokenizer.chat_template is None:
            raise EngineError(
                f"{self._folder.name}: the model has no chat template, so it cannot answer a chat;"
                " use an instruct model, or put a chat_template.jinja into its folder"
            )
        return self._apply(messages, add_generation_prompt=True)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `render(messages)`. The template writes the special tokens itself."""
        return self.ids(self.render(messages))

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens around it."""
        with self._lock:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """`ids` as text, special tokens left out."""
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _apply(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as exc:
            raise EngineError(f"the chat template of {self._folder.name} refuses these messages: {exc}") from exc
        return str(rendered)

    def _find_end_of_turn(self) -> int | None:
        """The special token the template writes right after an assistant's words; None when there is none.

        Some models end a turn with a token that is not their eos_token (Llama 3: <|eot_id|>, Gemma: <end_of_turn>).
        """
        if self._tokenizer.chat_template is None:
            return None
        answer = "Blue."
        try:
            text = self._apply([Message("user", "Which colour?"), Message("assistant", answer)], False)
        except EngineError:
            return None
        _, found, tail = text.rpartition(answer)
        ids = self.ids(tail.strip()) if found else []
        return ids[0] if ids and ids[0] in self._tokenizer.all_special_ids else None


def generation_ends(folder: Path) -> frozenset[int]:
    """Tokens that end an answer by the folder's generation_config.json; empty when it names none."""
    try:
        ends = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__

"""A model's own words for a chat: template, token ids, end-of-turn tokens."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.engines.grammar import Grammars
from core.engines.tools import as_text, function, function_call, offered
from core.errors import EngineError, EngineUnavailable, NotHonoured
from core.types import Message, Request, Tool


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
        self.takes_tools = _takes_tools(self._tokenizer.chat_template)
        """Whether the chat template has a place for tools."""
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

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt text of `messages`, ready for the assistant's answer. Tools go where the template has a place.

        Raises:
            EngineError: the model has no chat template, or its template refuses these messages.
        """
        if self._tokenizer.chat_template is None:
            raise EngineError(
                f"{self._folder.name}: the model has no chat template, so it cannot answer a chat;"
                " use an instruct model, or put a chat_template.jinja into its folder"
            )
        if not self.takes_tools:
            messages, tools = as_text(messages, tools), ()
        return self._apply(messages, add_generation_prompt=True, tools=tools)

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of `render(messages, tools)`. The template writes the special tokens itself."""
        return self.ids(self.render(messages, tools))

    def prompt(self, request: Request) -> list[int]:
        """Token ids of what `request` puts before the model: its chat, or the text to continue.

        Raises:
            EngineError: as `render`; NotHonoured where a token id is none of this model's.
        """
        if request.prompt is None:
            return self.encode(request.messages, offered(request))
        if isinstance(request.prompt, str):
            with self._lock:
                ids = list(self._tokenizer(request.prompt)["input_ids"])
        else:
            ids = list(request.prompt)
            if any(i >= len(self._tokenizer) for i in ids):
                raise NotHonoured("prompt", f"a token id of the prompt is not among the model's {len(self._tokenizer)}")
        if not ids:
            # A model must be given something: its own beginning of a text.
            start = self._tokenizer.bos_token_id
            ids = [self._tokenizer.eos_token_id if start is None else start]
        return ids

    def grammars(self, vocabulary: int, end_ids: frozenset[int]) -> Grammars:
        """Holds answers of a model with `vocabulary` logits to schemas.

        Raises:
            NotHonoured: it is a tokenizer without a fast implementation, which llguidance cannot read.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise NotHonoured(
                "response_format", f"{self._folder.name}: its tokenizer has no fast form, which schemas need"
            )
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(backend.to_str())
        copy.no_padding()
        copy.no_truncation()
        return Grammars(copy.to_str(), vocabulary, end_ids)

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens around it."""
        with self._lock:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """`ids` as text, special tokens left out."""
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _apply(self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[Tool] = ()) -> str:
        from jinja2 import TemplateError

        options: dict[str, Any] = {}
        if tools:
            options["tools"] = [{"type": "function", "function": function(tool)} for tool in tools]
        try:
            rendered = self._tokenizer.apply_chat_template(
                [_turn(m) for m in messages], tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except TemplateError as exc:
            text = f"the chat template of {self._folder.name} refuses these messages: {exc}"
            raise NotHonoured("messages", text) from exc
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


def _turn(message: Message) -> dict[str, Any]:
    """`message` as templates take it: the arguments of a call as an object, not as its text, where they are one."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        calls = [function_call(call) for call in message.tool_calls]
        for call in calls:
            call["function"]["arguments"] = _object(call["function"]["arguments"])
        turn["tool_calls"] = calls
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _object(arguments: str) -> Any:
    """The object that `arguments` write; `arguments` themselves where that is none: a model went wrong or was cut off."""
    with suppress(ValueError, RecursionError):
        value = json.loads(arguments)
        if isinstance(value, dict):
            return value
    return arguments


def _takes_tools(template: Any) -> bool:
    """Whether a chat template reads the variable `tools`."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if isinstance(template, dict):  # several templates by name, one of them for tools
        return "tool_use" in template or _takes_tools(template.get("default"))
    if not isinstance(template, str):
        return False
    # `generation` blocks are transformers' own extension; without it the template would not parse.
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    try:
        parsed = ImmutableSandboxedEnvironment(extensions=[loopcontrols]).parse(plain)
    except TemplateSyntaxError:
        return False
    return "tools" in meta.find_undeclared_variables(parsed)


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

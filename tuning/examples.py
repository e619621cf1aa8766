"""Training rows as token ids: the prompt exactly as it is served, the answer and its end-of-turn token as labels.

The starter model's template, like most, has no `{% generation %}` tag, so what is supervised is found by
difference: the chat with the answer, minus the prompt that the engine would send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.engines.tokens import ChatTokenizer
from core.errors import DataError, EngineError
from core.files import sha256_text
from core.prompts import instructed
from core.rows import Row
from core.types import Message


class TrainingTokenizer(ChatTokenizer):
    """The engine's tokenizer, which can also write the assistant's turn."""

    @property
    def end_of_turn(self) -> int:
        """The token a taught answer ends with.

        Raises:
            EngineError: the model has none.
        """
        token = self._end_of_turn if self._end_of_turn is not None else self._tokenizer.eos_token_id
        if token is None:
            raise EngineError(f"{self._folder.name}: the model has no end-of-turn token to teach")
        return int(token)

    @property
    def template(self) -> str:
        return str(self._tokenizer.chat_template)

    def render_answered(self, messages: Sequence[Message], answer: str) -> str:
        """The text of the chat with the assistant's answer."""
        return self._apply([*messages, Message("assistant", answer)], add_generation_prompt=False)

    def raw_text(self, ids: Sequence[int]) -> str:
        """`ids` as text, special tokens shown."""
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


@dataclass(frozen=True, slots=True)
class Example:
    """One training row, tokenized."""

    id: str
    ids: tuple[int, ...]
    """Prompt, answer, end of turn."""
    prompt: int
    """How many of `ids` are the prompt; the rest is supervised."""

    @property
    def supervised(self) -> int:
        return len(self.ids) - self.prompt


@dataclass(frozen=True)
class Examples:
    """What the rows became, and what became of the rows that did not fit."""

    kept: tuple[Example, ...]
    too_long: tuple[str, ...]
    """`file:line: id (tokens)` of the rows left out."""


def make_examples(
    rows: Sequence[Row],
    tokenizer: TrainingTokenizer,
    instruction: str,
    context: int | None,
    source: Path | None = None,
    skip_long: bool = False,
) -> Examples:
    """The rows as token ids, in order.

    Args:
        context: most tokens of one example; None: no limit.
        source: the file they came from, for messages.

    Raises:
        DataError: a row has no answer or the template refuses it; a row is longer than the context and `skip_long`
            is off; all rows are.
    """
    kept: list[Example] = []
    long: list[str] = []
    for row in rows:
        if not row.answers or not row.output.strip():
            raise DataError(f"row {row.id!r} has no answer to learn", source, row.line)
        try:
            example = make_example(row, tokenizer, instruction)
        except EngineError as exc:
            raise DataError(f"row {row.id!r}: {exc}", source, row.line) from exc
        if context is not None and len(example.ids) > context:
            where = f"{source or 'row'}:{row.line}" if row.line is not None else f"row {row.id!r}"
            long.append(f"{where} ({len(example.ids)} tokens)")
        else:
            kept.append(example)
    if long and (not skip_long or not kept):
        raise DataError(
            f"{len(long)} of {len(rows)} rows are longer than the {context} tokens the model can take: "
            f"{', '.join(long[:3])}{', ...' if len(long) > 3 else ''}; shorten them"
            + ("" if skip_long else ", or leave them out with --skip-long"),
            source,
        )
    return Examples(tuple(kept), tuple(long))


def make_example(row: Row, tokenizer: TrainingTokenizer, instruction: str) -> Example:
    """Raises EngineError when the model's template refuses the row's messages."""
    messages = instructed(row.messages, instruction)
    prompt_text = tokenizer.render(messages)
    prompt = tokenizer.ids(prompt_text)
    answered = tokenizer.render_answered(messages, row.output)
    if answered.startswith(prompt_text):
        answer = tokenizer.ids(answered[len(prompt_text) :])
    else:
        # Templates that open a thinking block in the generation prompt write it differently into a finished turn.
        answer = tokenizer.ids(row.output)
    return Example(row.id, (*prompt, *_ended(answer, tokenizer)), len(prompt))


def _ended(answer: list[int], tokenizer: TrainingTokenizer) -> list[int]:
    """`answer` up to its last end-of-turn token, which is added where the template writes none.

    What follows it (often a line break) is never generated, so it is not learned.
    """
    for i in range(len(answer) - 1, -1, -1):
        if answer[i] in tokenizer.end_ids:
            return answer[: i + 1]
    return [*answer, tokenizer.end_of_turn]


def check_mask(examples: Sequence[Example], tokenizer: TrainingTokenizer) -> str:
    """One line that shows what of the first example is supervised.

    Raises:
        DataError: nothing or everything is supervised, or an answer does not end its turn. Trained on that, a model
            learns nothing, or to talk to itself.
    """
    supervised = sum(example.supervised for example in examples)
    total = sum(len(example.ids) for example in examples)
    if not 0 < supervised < total:
        raise DataError(f"{supervised} of {total} tokens are supervised; only the answers should be")
    for example in examples:
        if example.ids[-1] not in tokenizer.end_ids or example.supervised < 2:
            raise DataError(f"row {example.id!r}: its answer has no end of turn, or nothing before it")
    first = examples[0]
    shown = tokenizer.raw_text(first.ids[first.prompt :])
    return f"{supervised} of {total} tokens are supervised ({supervised / total:.0%}); the first answer is {shown!r}"


def rows_sha256(rows: Sequence[Row]) -> str:
    """Hash of what the rows teach: messages and answers, in order."""
    return sha256_text(
        "\x1e".join("\x1f".join([*(f"{m.role}:{m.content}" for m in row.messages), row.output]) for row in rows)
    )

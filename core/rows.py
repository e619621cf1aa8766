"""Rows to measure on and rows to learn from, read from any of the file formats into one shape."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.errors import DataError
from core.records import Record, kind, read_records
from core.types import Message, Role

Purpose = Literal["evaluation", "training"]

FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id", "_id", "qid", "uid"),
    "input": ("input", "question", "prompt", "messages", "query", "text", "instruction", "pregunta", "问题"),
    "answers": (
        *("output", "answers", "answer", "target", "completion", "response", "label", "labels"),
        *("gold", "expected", "expected_output", "expected_answer", "ground_truth", "respuesta", "答案"),
    ),
    "context_ids": ("context_ids", "context_id"),
    "context": ("context", "contexts", "passages", "passage"),
    "cluster": ("cluster",),
    "answerable": ("answerable", "is_impossible"),
    "tags": ("tags", "tag"),
    "system": ("system", "system_prompt"),
}
"""What a row may hold and the names it goes by, most telling first. Case and spaces in names do not matter."""

_WANTED_INPUT = "`input`, `question`, `prompt` or `messages`"
_WANTED_ANSWER = "`output`, `answers`, `answer`, `target` or `completion`"
_PREFERENCE = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
_NO_TOOLS = "; tools are not learnt or measured: leave such turns out, or write call and result as text of a user turn"


@dataclass(frozen=True, slots=True)
class Row:
    """One item: what is asked, and what counts as right."""

    id: str
    messages: tuple[Message, ...]
    """The input as a chat that ends with a user turn, without the gold answer; a plain input is one user message."""
    answers: tuple[str, ...]
    """Gold answers, any of which counts; () for an unlabelled or unanswerable row."""
    context_ids: tuple[str, ...] = ()
    """Documents or passages that hold the answer."""
    context: tuple[str, ...] = ()
    """Texts that hold the answer."""
    cluster: str | None = None
    """What makes rows depend on each other: a document, an entity, a template."""
    answerable: bool = True
    """False: the documents do not hold the answer, and refusing is right."""
    tags: tuple[str, ...] = ()
    line: int | None = None
    """1-based line in the file it came from."""

    @property
    def input(self) -> str:
        """The last user turn."""
        return next(message.content for message in reversed(self.messages) if message.role == "user")

    @property
    def output(self) -> str:
        """The first gold answer.

        Raises:
            DataError: the row has none.
        """
        if not self.answers:
            raise DataError(f"row {self.id!r} has no gold answer")
        return self.answers[0]


def read_rows(path: Path, purpose: Purpose) -> list[Row]:
    """The rows of `path` in file order; at least one, with ids that differ.

    A list of texts is a list of alternatives; `labels` is one answer of several labels. In chat rows the last
    assistant message is the gold answer unless a field gives it. Rows without an id get one from their content, so
    it survives reordering. Evaluation rows may lack a gold answer, training rows may not.

    Raises:
        DataError: the file or a row cannot be used; names the file, the line and what to do.
        MissingExtra: Parquet without pyarrow.
    """
    rows, faults = sift_rows(path, purpose)
    if faults:
        raise DataError(faults[0].text, path, faults[0].line)
    if purpose == "evaluation" and not any(row.answers or not row.answerable for row in rows):
        fields = {key: None for record in read_records(path) for key in record.fields}
        raise DataError(f"no row has a gold answer; {_lacking(fields, 'answers')}", path)
    return rows


class Fault(NamedTuple):
    """Why a row cannot be used."""

    line: int
    text: str


def sift_rows(path: Path, purpose: Purpose) -> tuple[list[Row], list[Fault]]:
    """The usable rows of `path`, and all that `read_rows` would refuse one by one, in file order.

    Raises:
        DataError: the file as a whole cannot be read, or two rows have one id.
        MissingExtra: Parquet without pyarrow.
    """
    names: dict[str, str] = {}
    rows, faults = [], []
    for record in read_records(path):
        fields = {names.setdefault(key, _name(key)): value for key, value in record.fields.items()}
        try:
            rows.append(_row(Record(record.line, fields), purpose))
        except _RowError as exc:
            faults.append(Fault(record.line, str(exc)))
    return _with_ids(rows, path), faults


class _RowError(ValueError):
    """What is wrong with one row; the caller knows the file."""


def _row(record: Record, purpose: Purpose) -> Row:
    fields = record.fields
    messages, answer = _chat(fields)
    answerable, answers = _answerable(fields), _answers(fields)
    if answers is None and answer is not None:
        answers = (answer,) if answer.strip() else ()
    if purpose == "training" and not answers:
        raise _RowError(_no_output(fields, answerable, given=answers is not None))
    return Row(
        id=_text(fields, "id") or "",
        messages=messages,
        answers=answers or (),
        context_ids=_texts(fields, "context_ids"),
        context=_texts(fields, "context"),
        cluster=_text(fields, "cluster"),
        answerable=answerable,
        tags=_texts(fields, "tags"),
        line=record.line,
    )


def _no_output(fields: Mapping[str, Any], answerable: bool, given: bool) -> str:
    if not answerable:
        return "the output is empty; for an unanswerable question give the words the model should answer with"
    if given:
        return "the output is empty; a training row needs one"
    if any(key.strip().lower() == "messages" for key in fields):
        return "no output; the last message has to be the assistant's (or the row has an `output`)"
    return f"no output; {_lacking(fields, 'answers')}"


def _chat(fields: Mapping[str, Any]) -> tuple[tuple[Message, ...], str | None]:
    """The input as a chat, and the answer it ends with (None when it ends with the user)."""
    name, value = _first(fields, "input")
    if name is None:
        given = [n for n in FIELDS["input"] if n in fields]
        if given:
            raise _RowError(f"{given[0]!r} is empty")
        raise _RowError(f"no input; {_lacking(fields, 'input')}")
    if isinstance(value, str) and name == "messages":
        value = _decoded(value)
    if isinstance(value, list) and (name == "messages" or any(isinstance(item, dict) for item in value)):
        messages = [_message(item, f"{name}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, str):
        # Instruction rows: the instruction says what to do, the input (often empty) what to do it to.
        instruction = fields.get("instruction")
        if isinstance(instruction, str) and name != "instruction" and instruction.strip():
            value = f"{instruction}\n\n{value}"
        messages = [Message("user", value)]
    else:
        raise _RowError(
            f"{name!r} must be text{' or a list of messages' if name == 'prompt' else ''}, not {kind(value)}"
        )
    answer = messages.pop().content if messages and messages[-1].role == "assistant" else None
    if not messages or messages[-1].role != "user":
        raise _RowError(f"{name!r} must end with a user turn, or a user turn and the assistant's answer")
    system = _text(fields, "system")
    if system and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    return tuple(messages), answer


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict) or "role" not in item:
        raise _RowError(f"{where} must be an object with `role` and `content`")
    roles: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
    role = roles.get(item["role"]) if isinstance(item["role"], str) else None
    if role is None:
        raise _RowError(f"{where} has the role {item['role']!r}; wanted system, user or assistant{_NO_TOOLS}")
    if item.get("content") is None and (item.get("tool_calls") or item.get("function_call")):
        raise _RowError(f"{where} is a tool call{_NO_TOOLS}")
    content = item.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise _RowError(f"{where}: `content` must be text, not {kind(content)}")
    return Message(role, content)


def _answers(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Gold answers without blanks or repeats; None where no field gives any."""
    name, value = _first(fields, "answers")
    if name is None:
        return () if any(fields.get(n) in ("", []) for n in FIELDS["answers"]) else None
    if isinstance(value, str) and value.lstrip()[:1] == "[" and name in ("answers", "labels"):
        value = _decoded(value)
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # SQuAD: {"text": [...], "answer_start": [...]}
        value = value["text"]
    if isinstance(value, list):
        if name == "completion" and len(value) == 1 and isinstance(value[0], dict) and "role" in value[0]:
            value = [_message(value[0], "completion[0]").content]
        if name != "answers" and any(isinstance(item, dict | list) for item in value):
            value = [json.dumps(value, ensure_ascii=False)]
        texts = [_answer(item, name) for item in value]
        if name == "labels":
            texts = [", ".join(texts)]
    else:
        texts = [_answer(value, name)]
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _answer(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise _RowError(f"{name!r} is {value}, which is not a number one can answer with")
        return str(int(value)) if value.is_integer() else str(value)
    if value is None:
        return ""
    if isinstance(value, dict) and isinstance(value.get("text"), str) and name == "answers":
        return str(value["text"])
    return json.dumps(value, ensure_ascii=False)


def _answerable(fields: Mapping[str, Any]) -> bool:
    for name in FIELDS["answerable"]:
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
        if value in (0, 1):
            return bool(value) if name == "answerable" else not value
        raise _RowError(f"{name!r} must be true or false, not {fields[name]!r}")
    answers = fields.get("answers")
    # SQuAD 2.0 as hubs publish it marks an unanswerable question by an empty list of spans alone.
    return not (isinstance(answers, dict) and answers.get("text") == [])


def _text(fields: Mapping[str, Any], field: str) -> str | None:
    name, value = _first(fields, field)
    if name is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _RowError(f"{name!r} must be text, not {kind(value)}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _texts(fields: Mapping[str, Any], field: str) -> tuple[str, ...]:
    name, value = _first(fields, field)
    if name is None:
        return ()
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _decoded(value)
    if isinstance(value, dict) and isinstance(value.get("contexts"), list):  # PubMedQA
        value = value["contexts"]
    items = value if isinstance(value, list) else [value]
    texts = []
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("text"), str):
            item = item["text"]
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise _RowError(f"{name!r} must be text or a list of texts, not {kind(item)}")
        texts.append(str(item))
    return tuple(text for text in texts if text.strip())


def _first(fields: Mapping[str, Any], field: str) -> tuple[str | None, Any]:
    """The first name of `field` with a value that is not empty, and the value."""
    for name in FIELDS[field]:
        value = fields.get(name)
        if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
            return name, value
    return None, None


def _decoded(cell: str) -> Any:
    """A list written into one cell, as JSON or as Python prints it; else the text itself."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell


def _with_ids(rows: Iterable[Row], path: Path) -> list[Row]:
    """`rows`, each with an id: its own, or one made from what it asks (numbered where two ask the same)."""
    rows = list(rows)
    first: dict[str, int | None] = {}
    for row in rows:
        if row.id and row.id in first:
            raise DataError(
                f"the id {row.id!r} is on line {first[row.id]} already; ids must differ "
                "(leave `id` out to have them made)",
                path,
                row.line,
            )
        if row.id:
            first[row.id] = row.line
    done = []
    for row in rows:
        if not row.id:
            stem = "r" + sha256("\x1f".join(m.content for m in row.messages).encode()).hexdigest()[:12]
            fresh, n = stem, 1
            while fresh in first:
                n += 1
                fresh = f"{stem}-{n}"
            first[fresh] = row.line
            row = replace(row, id=fresh)
        done.append(row)
    return done


def _name(key: str) -> str:
    return "_".join(key.strip().lower().split())


def _seen(keys: Iterable[str]) -> str:
    names = list(dict.fromkeys(keys))
    if not names:
        return "the row is empty"
    return "fields seen: " + ", ".join(f"`{name}`" for name in names[:12]) + (", ..." if len(names) > 12 else "")


def _lacking(fields: Mapping[str, Any], field: Literal["input", "answers"]) -> str:
    """What was wanted of a row without `field`, what it holds instead, and what to do."""
    names = {_name(name) for name in fields}
    if any(names.issuperset(pair) for pair in _PREFERENCE):
        return "these are preference pairs; learn from them with `tunefork tune NAME --preferences FILE`"
    wanted = _WANTED_INPUT if field == "input" else _WANTED_ANSWER
    return f"wanted {wanted}; {_seen(fields)}; {_near(fields, field)}"


def _near(fields: Iterable[str], field: Literal["input", "answers"]) -> str:
    """What to do: the field that was seen and is nearly one that was wanted, else to rename one."""
    for name in fields:
        close = get_close_matches(_name(name), FIELDS[field], n=1, cutoff=0.7)
        if close and _name(name) not in FIELDS[field]:
            return f"did you mean `{close[0]}` instead of `{name}`?"
    what, name = ("what is asked", "input") if field == "input" else ("the answer", "output")
    return f"rename the one that holds {what} to `{name}`"

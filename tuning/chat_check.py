"""Chat rows checked before they are read, by the names that OpenAI's cookbook gives the faults.

The names are those of "Data preparation and analysis for chat model fine-tuning" (OpenAI cookbook), which many
pipelines know. Where our reader takes more than that script does (the `developer` role, content in text parts), that is
no fault here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from core.records import Record, kind
from tuning.findings import Finding, finding

KEYS = frozenset(["role", "content", "name", "function_call", "weight"])
ROLES = frozenset(["system", "developer", "user", "assistant"])
_TEXTS = {
    "missing_messages_list": "have no list of messages",
    "message_missing_key": "have a message without `role` or `content`",
    "message_unrecognized_key": "have a message with a key that is not read",
    "unrecognized_role": "have a role other than system, developer, user or assistant (tools are not learnt: leave"
    " their turns out, or write them as text of a user turn)",
    "missing_content": "have a message whose content is empty or no text",
    "example_missing_assistant_message": "have no assistant message to learn",
}
_HARMLESS = frozenset(["message_unrecognized_key"])


def is_chat(records: Sequence[Record]) -> bool:
    """Whether most records are chats: an object with `messages`."""
    return 2 * sum(_messages(record) is not None for record in records) > len(records)


def chat_findings(records: Sequence[Record]) -> list[Finding]:
    """What is wrong with chat records, one finding a code."""
    lines: dict[str, list[int]] = {code: [] for code in _TEXTS}
    shown: dict[str, str] = {}
    for record in records:
        for code, what in dict(_faults(record)).items():
            lines[code].append(record.line)
            shown.setdefault(code, what)
    return [
        finding(
            code,
            f"{len(found)} of {len(records)} rows {_TEXTS[code]}{': ' + shown[code] if shown[code] else ''}",
            found,
            error=code not in _HARMLESS,
        )
        for code, found in lines.items()
        if found
    ]


def lines_of(records: Sequence[Record], code: str) -> list[int]:
    """Lines of all records with the fault `code`."""
    return [record.line for record in records if any(found == code for found, _ in _faults(record))]


def _messages(record: Record) -> Any:
    return next((value for key, value in record.fields.items() if key.strip().lower() == "messages"), None)


def _faults(record: Record) -> Iterator[tuple[str, str]]:
    """(code, what was met) of one record."""
    messages = _messages(record)
    if not isinstance(messages, list) or not messages:
        yield "missing_messages_list", "" if messages is None else f"`messages` is {kind(messages)}"
        return
    roles = []
    for message in messages:
        if not isinstance(message, dict):
            yield "message_missing_key", f"a message is {kind(message)}"
            continue
        missing = [key for key in ("role", "content") if key not in message]
        if missing:
            yield "message_missing_key", f"`{missing[0]}`"
        unread = sorted(message.keys() - KEYS)
        if unread:
            yield "message_unrecognized_key", f"`{unread[0]}`"
        role = message.get("role")
        roles.append(role)
        if "role" in message and (not isinstance(role, str) or role not in ROLES):
            yield "unrecognized_role", repr(role)
        if "content" in message and not _has_text(message["content"]):
            yield "missing_content", f"{role}: {message['content']!r}"[:60]
    if "assistant" not in roles:
        yield "example_missing_assistant_message", ""


def _has_text(content: Any) -> bool:
    if isinstance(content, list):
        return bool(content) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content)
    return isinstance(content, str) and bool(content.strip())

"""Chat rows are checked by the names OpenAI's cookbook gives their faults, all at once."""

from __future__ import annotations

from typing import Any

import pytest

from core.records import Record
from tuning.chat_check import chat_findings, is_chat, lines_of

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def _chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


ASK, SAY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    ("fields", "code", "severity"),
    [
        ({"prompt": "hi"}, "missing_messages_list", "error"),
        ({"messages": []}, "missing_messages_list", "error"),
        ({"messages": "hi"}, "missing_messages_list", "error"),
        (_chat(ASK, {"role": "assistant"}), "message_missing_key", "error"),
        (_chat(ASK, "hello"), "message_missing_key", "error"),
        (_chat(ASK, {**SAY, "mood": "gay"}), "message_unrecognized_key", "warning"),
        (_chat(ASK, {"role": "robot", "content": "x"}, SAY), "unrecognized_role", "error"),
        (_chat({"role": "user", "content": None}, SAY), "missing_content", "error"),
        (_chat({"role": "user", "content": " "}, SAY), "missing_content", "error"),
        (_chat(ASK), "example_missing_assistant_message", "error"),
    ],
)
def test_each_fault_has_its_cookbook_name(fields: dict[str, Any], code: str, severity: str) -> None:
    records = [Record(1, GOOD), Record(2, fields), Record(3, GOOD)]
    found = {f.code: f for f in chat_findings(records)}
    assert found[code].lines == (2,)
    assert found[code].severity == severity
    assert lines_of(records, code) == [2]


def test_good_chats_have_no_findings() -> None:
    parts = _chat({"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"text": "hi"}]}, SAY)
    assert chat_findings([Record(1, GOOD), Record(2, parts)]) == []


def test_a_file_is_chats_when_most_rows_are() -> None:
    assert is_chat([Record(1, GOOD), Record(2, GOOD), Record(3, {"prompt": "x"})])
    assert not is_chat([Record(1, {"input": "a", "output": "b"})])

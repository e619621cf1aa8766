"""The server's log: every line carries the request it belongs to, as text for people or JSON for collectors."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")

ACCESS = logging.getLogger("tunefork.access")
"""One line a request at level INFO; its fields are in the record's `fields`."""


def configure_logging(format: Format = "text", access: bool = True) -> None:
    """Log to stderr: warnings of everybody, and where `access` is set one line a request."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    ACCESS.setLevel(logging.INFO if access else logging.WARNING)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        head = f"{_time(record)} {record.levelname} {REQUEST_ID.get()}"
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if name != "request_id")
        text = " ".join(part for part in (head, record.getMessage(), shown) if part)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), "request_id": REQUEST_ID.get(), **fields}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

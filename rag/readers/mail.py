"""Mail messages (.eml): the headers a reader sees, the text, and what is attached as text or as a message."""

from __future__ import annotations

from collections.abc import Iterator
from email import policy
from email.errors import HeaderParseError
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser
from email.utils import getaddresses
from pathlib import Path

from core.errors import DataError
from rag.documents import Document, Scalar
from rag.readers import html
from rag.readers.encoding import decoded, read_bytes
from rag.readers.facts import facts
from rag.readers.outline import Outline

MAX_DEPTH = 8
"""Messages forwarded in messages."""
MAX_PARTS = 1_000

_SHOWN = ("From", "To", "Cc", "Date", "Subject")


def read(path: Path, id: str) -> Document:
    """The message and, each under its own heading, the texts and messages attached to it. Others are named only.

    Of a message in plain text and HTML the plain text is taken. Title: the subject.

    Raises:
        DataError: not a mail message, or without text.
    """
    message = BytesParser(EmailMessage, policy=policy.default).parsebytes(read_bytes(path))
    if not any(_header(message, name) for name in ("From", "To", "Subject", "Date", "Message-ID")):
        raise DataError("is not a mail message (no From, To, Subject or Date)", path)
    outline = Outline()
    attached: list[str] = []
    texts = _message(outline, message, path, attached, 0)
    if not texts:
        named = f" (attached: {', '.join(attached)})" if attached else ""
        raise DataError(f"has no text{named}", path)
    metadata: dict[str, Scalar] = dict(facts(created=_header(message, "Date"), author=_header(message, "From")))
    for name in ("from", "to", "cc"):
        addresses = [address for _, address in getaddresses([_header(message, name)]) if address]
        if addresses:
            metadata[name] = ", ".join(addresses)
    if attached:
        metadata["attachments"] = ", ".join(attached)
    return outline.document(id, _header(message, "Subject") or path.stem, metadata)


def _message(outline: Outline, message: EmailMessage, path: Path, attached: list[str], depth: int) -> int:
    """Adds a message to the outline; returns how many texts it had."""
    shown = [(name, " ".join(_header(message, name).split())) for name in _SHOWN]
    outline.block("\n".join(f"{name}: {value}" for name, value in shown if value))
    texts = 0
    body = message.get_body(("plain", "html"))
    if body is not None:
        texts += _text(outline, body, path)
    for number, part in enumerate(_attachments(message, body)):
        name = " ".join((_filename(part) or part.get_content_type()).split())
        inner = part.get_payload(0) if part.get_content_type() == "message/rfc822" and part.is_multipart() else None
        if number >= MAX_PARTS or depth >= MAX_DEPTH:
            attached.append(name)
        elif isinstance(inner, EmailMessage):
            outline.heading(1, _header(inner, "Subject") or name)
            texts += _message(outline, inner, path, attached, depth + 1)
        elif part.get_content_maintype() == "text":
            outline.heading(1, name)
            texts += _text(outline, part, path)
        else:
            attached.append(name)
    return texts


def _attachments(message: MIMEPart, body: MIMEPart | None) -> Iterator[MIMEPart]:
    """Leaf parts beside the body, messages as one; the other forms of the body (`alternative`) are left out."""
    if not message.is_multipart() or message.get_content_type() == "message/rfc822":
        return
    for part in message.iter_parts():
        assert isinstance(part, MIMEPart)
        kind = part.get_content_type()
        if part is body:
            continue
        if kind == "multipart/alternative":
            if body is None or not any(one is body for one in part.walk()):
                last = part.get_body(("plain", "html"))
                if last is not None:
                    yield last
        elif part.get_content_maintype() == "multipart":
            yield from _attachments(part, body)
        elif message.get_content_type() != "multipart/alternative":
            yield part


def _text(outline: Outline, part: MIMEPart, path: Path) -> int:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes) or not data.strip():
        return 0
    if part.get_content_type() == "text/html":
        return int(html.add(outline, data, part.get_content_charset()))
    charset = part.get_content_charset()
    try:
        text = data.decode(charset or "ascii").replace("\r\n", "\n").replace("\r", "\n")
    except (UnicodeDecodeError, LookupError):
        text = decoded(data, path).text
    outline.block(text)
    return int(bool(text.strip()))


def _header(message: MIMEPart, name: str) -> str:
    try:
        return str(message[name] or "").strip()
    except (HeaderParseError, ValueError, IndexError, AttributeError):
        return ""  # malformed beyond what the parser mends


def _filename(part: MIMEPart) -> str:
    try:
        return part.get_filename() or ""
    except (HeaderParseError, ValueError, IndexError, AttributeError, TypeError):
        return ""

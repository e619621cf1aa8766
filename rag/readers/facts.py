"""What a file says about itself, in one form for all formats: dates, language, author."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from rag.documents import Scalar

_PDF_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:([+\-Z])(\d\d)?'?(\d\d)?)?")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_]\w+)*\Z", re.IGNORECASE)


def facts(
    *, created: Any = None, modified: Any = None, language: str | None = None, author: str | None = None
) -> dict[str, Scalar]:
    """Metadata of what is known. Dates are texts of one form in UTC, which sort as the times they name."""
    dates = (("created", date(created)), ("modified", date(modified)))
    values: dict[str, Scalar] = {name: value for name, value in dates if value}
    found = _LANGUAGE.match((language or "").strip())
    if found:
        values["language"] = found[1].lower()
    named = " ".join((author or "").split())
    if named:
        values["author"] = named[:200]
    return values


def date(value: Any) -> str:
    """A date as `2024-05-01T09:30:00Z`; as `2024-05-01` where only the day is given; "" for what is no date.

    Takes datetimes, and texts as ISO 8601, mail headers (RFC 5322) and PDFs write them. Times without a zone are taken
    for UTC.
    """
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        try:
            return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (OverflowError, ValueError):
            return ""
    text = str(value or "").strip()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return text
    pdf = _PDF_DATE.match(text)
    if pdf:
        year, month, day, hour, minute, second, sign, east, odd = pdf.groups()
        zone = "+00:00" if sign in (None, "Z") else f"{sign}{east or '00'}:{odd or '00'}"
        text = f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone}"
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return date(parse(text))
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return ""

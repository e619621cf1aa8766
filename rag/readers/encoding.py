"""From bytes to text: UTF-8 first, then what a byte order mark or the bytes themselves say."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

from core.errors import DataError

MAX_FILE_BYTES = 200 * 2**20
"""Largest file read in one piece. A corpus JSONL is streamed and may be larger."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Decoded(NamedTuple):
    text: str
    """With \\n line ends."""
    encoding: str


def read_bytes(path: Path) -> bytes:
    """Raises DataError: unreadable, empty, or over `MAX_FILE_BYTES`."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"has {size / 2**20:.0f} MB, over the limit of {MAX_FILE_BYTES // 2**20} MB", path)
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", path) from exc
    if not data.strip():
        raise DataError("is empty", path)
    return data


def decoded(data: bytes, path: Path) -> Decoded:
    """The text of `data`.

    Raises:
        DataError: no encoding fits (the file is binary).
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return Decoded(_unix(data.decode(name)), name)
            except UnicodeDecodeError as exc:
                raise DataError(f"says it is {name} and is not (byte {exc.start})", path) from exc
    if b"\0" in data[:8192]:
        raise DataError("is binary, not text (it holds zero bytes)", path)
    try:
        return Decoded(_unix(data.decode("utf-8")), "utf-8")
    except UnicodeDecodeError:
        pass
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise DataError("is in no text encoding that is known; save it as UTF-8", path)
    return Decoded(_unix(str(best)), best.encoding)


def read_text(path: Path) -> Decoded:
    """The text of a file; raises DataError as `read_bytes` and `decoded` do."""
    return decoded(read_bytes(path), path)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")

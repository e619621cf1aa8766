"""Office files are zip archives: what is looked at before a reader unpacks one."""

from __future__ import annotations

import zipfile
from pathlib import Path

from core.errors import DataError
from rag.readers.encoding import read_bytes

MAX_UNPACKED_BYTES = 500 * 2**20
MAX_ENTRIES = 20_000
MAX_RATIO = 200
"""Unpacked size by packed, of the parts over `_SMALL_BYTES`: XML of real documents packs to a twentieth or so."""

_SMALL_BYTES = 10 * 2**20


def refuse_zip_bomb(path: Path) -> None:
    """Raises DataError when `path` is empty, no zip archive, encrypted, or unpacks beyond the limits above.

    The sizes are those the archive declares; a part that unpacks to more than it declares is cut off there by zipfile.
    """
    read_bytes(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise DataError("is damaged (not a zip archive)", path) from exc
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"has {len(entries)} parts, over the limit of {MAX_ENTRIES}", path)
    if any(entry.flag_bits & 1 for entry in entries):
        raise DataError("is encrypted; save it without its password", path)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED_BYTES:
        limit = MAX_UNPACKED_BYTES // 2**20
        raise DataError(f"unpacks to {unpacked / 2**20:.0f} MB, over the limit of {limit} MB", path)
    for entry in entries:
        if entry.file_size > max(_SMALL_BYTES, MAX_RATIO * entry.compress_size):
            raise DataError(
                f"its part {entry.filename!r} unpacks to {entry.file_size / max(1, entry.compress_size):.0f} times"
                f" its size, over the limit of {MAX_RATIO}",
                path,
            )

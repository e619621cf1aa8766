"""Chroma's vector files, without what they should not hold.

Its HNSW index (hnswlib) allocates slots ahead, does not clear them, and saves them with the rest: whatever the process
had in that memory before, texts of deleted documents among it, ends up in `data_level0.bin` and `length.bin`. Seen
with chromadb 1.5.9 in a third of small ingests.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("<i4Q")
"""Format version, offset of level 0, slots allocated, slots used, bytes a slot."""


def scrub(folder: Path) -> None:
    """Zero the unused slots of the vector files below `folder`, which no process has open for writing.

    Files of another layout than the known one are left as they are.
    """
    for header in folder.glob("*/header.bin"):
        head = header.read_bytes()
        if len(head) < _HEADER.size:
            continue
        version, _, allocated, used, size = _HEADER.unpack_from(head)
        data, lengths = header.with_name("data_level0.bin"), header.with_name("length.bin")
        known = version == 1 and used <= allocated and data.is_file() and data.stat().st_size == allocated * size
        if known:
            _zero(data, used * size)
            if lengths.is_file() and lengths.stat().st_size == allocated * 4:
                _zero(lengths, used * 4)


def _zero(path: Path, start: int) -> None:
    size = path.stat().st_size
    if start < size:
        # Shrinking and growing again leaves a hole, which reads as zeros.
        with path.open("r+b") as file:
            file.truncate(start)
            file.truncate(size)

from __future__ import annotations

import struct
from pathlib import Path

from rag.scrub import scrub


def index(folder: Path, version: int, allocated: int, used: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "header.bin").write_bytes(struct.pack("<i4Q", version, 0, allocated, used, 10) + b"\x01" * 64)
    (folder / "data_level0.bin").write_bytes(b"d" * 10 * allocated)
    (folder / "length.bin").write_bytes(b"l" * 4 * allocated)
    return folder


def test_unused_slots_are_zeroed_and_used_ones_kept(tmp_path: Path) -> None:
    folder = index(tmp_path / "a", 1, 5, 3)
    scrub(tmp_path)
    assert (folder / "data_level0.bin").read_bytes() == b"d" * 30 + b"\0" * 20
    assert (folder / "length.bin").read_bytes() == b"l" * 12 + b"\0" * 8


def test_an_unknown_layout_is_left_alone(tmp_path: Path) -> None:
    other = index(tmp_path / "a", 2, 5, 3)
    odd = index(tmp_path / "b", 1, 5, 3)
    (odd / "data_level0.bin").write_bytes(b"d" * 49)
    scrub(tmp_path)
    assert (other / "data_level0.bin").read_bytes() == b"d" * 50
    assert (odd / "length.bin").read_bytes() == b"l" * 20

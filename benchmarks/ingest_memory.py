"""What the memory of an ingest grows by, and whose it is: parts of `benchmarks.ingest --only memory`.

Each figure is from a process of its own, at two sizes of the corpus. `ingest` is the whole; `encoder` embeds the same
texts in the same windows and keeps nothing; `chroma` stores as many drawn vectors with the same texts and nothing else.
What the ingest grows by beyond those two is ours.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("ingest", "encoder", "chroma")


class _Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def used_mb() -> dict[str, float]:
    """Memory of this process: its peak, private and file pages now, and of the heap what is in use, mapped and free."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Heap
    heap = mallinfo()
    names = {"peak": "VmHWM", "private": "RssAnon", "file": "RssFile"}
    found = {name: int(status[key].split()[0]) / 1024 for name, key in names.items()}
    return found | {
        "heap_in_use": heap.uordblks / 2**20,
        "heap_mapped": heap.hblkhd / 2**20,
        "heap_free": heap.fordblks / 2**20,
    }


def memory(sizes: tuple[int, int]) -> dict[str, Any]:
    """Memory in MB at the end of each kind of work, at both sizes, and what it grows by per 1,000 passages."""
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        ends = []
        for size in sizes:
            command = [sys.executable, "-m", "benchmarks.ingest_memory", kind, str(size)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            ends.append(json.loads(done.stdout.splitlines()[-1]))
        thousands = (ends[1]["passages"] - ends[0]["passages"]) / 1000
        growth = {name: (ends[1]["mb"][name] - ends[0]["mb"][name]) / thousands for name in ends[0]["mb"]}
        kinds[kind] = {"sizes": {str(end["passages"]): end for end in ends}, "mb_per_1000_passages": growth}
    whole = kinds["ingest"]
    return {
        "sizes": {
            size: {"passages": end["passages"], "peak_mb": end["mb"]["peak"]} for size, end in whole["sizes"].items()
        },
        "mb_per_1000_passages": whole["mb_per_1000_passages"]["peak"],
        "kinds": kinds,
    }


def _texts(size: int) -> Iterator[str]:
    """`size` texts of 8 to 150 words: as long as passages are, of all lengths."""
    from benchmarks.ingest import words_of

    words = words_of()
    rng = np.random.default_rng(0)
    for length in rng.integers(8, 151, size):
        yield " ".join(words[i] for i in rng.integers(0, len(words), length))


def _measured(kind: str, size: int) -> dict[str, Any]:
    from benchmarks.ingest import MODEL, _workspace
    from rag.embedding import load_encoder

    with TemporaryDirectory() as home:
        corpus = Path(home) / "corpus.jsonl"
        with corpus.open("w", encoding="utf-8") as file:
            for i, text in enumerate(_texts(size)):
                file.write(json.dumps({"id": f"d{i}", "text": text, "number": i}) + "\n")
        workspace = _workspace(home)
        encoder = load_encoder(MODEL, workspace.models)
        if kind == "ingest":
            from rag.ingest import ingest

            folder, settings = workspace.declare("size", {"docs": (corpus,), "embedding_model": MODEL})
            size = ingest(folder, settings, workspace, [corpus]).passages
        elif kind == "encoder":
            for window in _windows(corpus):
                encoder.passages(window)
        else:
            _stored(Path(home) / "store", corpus, encoder.dimensions)
        return {"passages": size, "mb": used_mb()}


def _stored(folder: Path, corpus: Path, dimensions: int) -> None:
    from rag.store import create_store

    folder.mkdir()
    rng = np.random.default_rng(0)
    with create_store(folder) as store:
        rows = 0
        for window in _windows(corpus):
            ids = [str(rows + i) for i in range(len(window))]
            vectors = rng.standard_normal((len(window), dimensions)).astype(np.float32)
            kept = [{"document_id": f"d{id}"} for id in ids]
            store.vector_store._collection.add(ids=ids, embeddings=vectors, documents=window, metadatas=kept)
            rows += len(window)


def _windows(corpus: Path) -> Iterator[list[str]]:
    from rag.build import WINDOW

    window: list[str] = []
    with corpus.open(encoding="utf-8") as file:
        for line in file:
            window.append(json.loads(line)["text"])
            if len(window) == WINDOW:
                yield window
                window = []
    if window:
        yield window


if __name__ == "__main__":
    from core.cli import _quiet_dependencies

    _quiet_dependencies()
    print(json.dumps(_measured(sys.argv[1], int(sys.argv[2]))))

"""What an ingest costs: its rate against the encoder alone, an unchanged one again, memory by corpus size, and what is lost.

    .venv/bin/python -m benchmarks.ingest [--only rate,memory,filters,docs_raw_mix,docs_postgresql15] [--passages N]

The bound is measured in the same run: the embedding model's own `SentenceTransformer.encode`, in its own batches, over
the very texts that the ingest embeds, once before and once after it. Parts that are left out keep their last figures.
Raw figures go to benchmarks/results/ingest.json. Needs the public data sets in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "ingest.json"
MODELS = ROOT / ".cache" / "models"
MODEL = "all-minilm-l6-v2"
RATE_FOLDERS = ("python-howto",)
LARGE = 8_000
"""Documents of the memory measurement, and an eighth of them."""


def _workspace(path: str) -> Any:
    from core.workspace import Workspace

    MODELS.mkdir(parents=True, exist_ok=True)
    (Path(path) / "models").symlink_to(MODELS)
    return Workspace(Path(path))


def _texts(folder: Any) -> list[str]:
    from rag.passages import Passages, embedded_text

    passages = Passages(folder.index.active())
    texts = [embedded_text(passages.row(row)) for row in range(len(passages))]
    passages.close()
    return texts


def rate() -> dict[str, Any]:
    """Passages a second of an ingest of one of docs_raw_mix's folders and of the encoder alone."""
    from rag.embedding import load_encoder
    from rag.ingest import ingest

    documents = [DATA / "docs_raw_mix" / name for name in RATE_FOLDERS]
    with tempfile.TemporaryDirectory() as home:
        workspace = _workspace(home)
        folder, settings = workspace.declare("mix", {"docs": tuple(documents), "embedding_model": MODEL})
        # Made once to know the texts; with it all is loaded and warm.
        first = ingest(folder, settings, workspace, documents)
        texts = _texts(folder)
        model: Any = load_encoder(MODEL, workspace.models)._model  # type: ignore[attr-defined]

        def encode() -> float:
            start = time.perf_counter()
            model.encode(texts, show_progress_bar=False)
            return time.perf_counter() - start

        alone = [encode()]
        timed = ingest(folder, settings, workspace, documents, rebuild=True)
        alone.append(encode())
        again = [ingest(folder, settings, workspace, documents).seconds for _ in range(5)]
    encode_s = float(np.mean(alone))
    assert timed.embedded + timed.reused == first.passages == len(texts)
    return {
        "files": timed.files,
        "passages": timed.passages,
        "ingest_s": timed.seconds,
        "encode_s": alone,
        "passages_per_s": timed.passages / timed.seconds,
        "encode_passages_per_s": timed.passages / encode_s,
        "share": encode_s / timed.seconds,
        "unchanged_s": again,
        "times_faster_unchanged": timed.seconds / float(np.median(again)),
    }


def memory(passages: int = LARGE) -> dict[str, Any]:
    """Memory of an ingest at an eighth of the passages and at all, and what its growth consists of."""
    from benchmarks.ingest_memory import memory as measured

    return measured((passages // 8, passages))


def words_of() -> list[str]:
    """Words of the PostgreSQL manual, in its order."""
    text = (DATA / "docs_postgresql15" / "corpus.jsonl").read_text(encoding="utf-8")
    return re.findall(r"[a-z]{4,}", text.lower())


def corpus(name: str) -> dict[str, Any]:
    """A collection of documents ingested whole: what came in, and which documents did not letter by letter."""
    from rag.ingest import ingest
    from rag.passages import Passages
    from rag.readers import format_of, parse, rows
    from rag.readers.encoding import read_text

    path = DATA / name / "corpus.jsonl" if (DATA / name / "corpus.jsonl").exists() else DATA / name
    with tempfile.TemporaryDirectory() as home:
        workspace = _workspace(home)
        folder, settings = workspace.declare("whole", {"docs": (path,), "embedding_model": MODEL})
        report = ingest(folder, settings, workspace, [path])
        passages = Passages(folder.index.active())
        indexed = {e.id: " ".join(r["text"] for r in passages.rows_of(e)) for e in passages.entries}
        passages.close()
    if path.is_file():
        texts = {one.id: one.text for one in rows.read(path, path.name)}
    else:
        # Plain text against the file itself; the others against what their reader saw.
        kinds = {id: format_of(path.parent / id) for id in indexed}
        texts = {
            id: read_text(path.parent / id).text
            if kind == "plain"
            else "\n".join(one.text for one in parse(kind, path.parent / id, id))
            for id, kind in kinds.items()
        }
    cut = sum((Counter(_words(text)) - Counter(_words(indexed.get(id, "")))).total() for id, text in texts.items())
    changed = [id for id, text in texts.items() if "".join(_words(text)) != "".join(_words(indexed.get(id, "")))]
    return {
        "files_found": sum(one.is_file() for one in path.rglob("*")) if path.is_dir() else 1,
        "files": report.files,
        "failed": len(report.failed),
        "left_out": [Path(one.path).name for one in report.left_out],
        "documents": report.documents,
        "passages": report.passages,
        "words": sum(len(_words(text)) for text in texts.values()),
        # Not there as words: lost, or cut in two at the edge of a passage ...
        "words_lost": cut,
        # ... which the letters and digits in order tell apart, wherever they are cut and however they are spaced.
        "documents_changed": changed,
        "seconds": report.seconds,
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def filters(passages: int = 50_000) -> dict[str, Any]:
    """Filtered search at so many passages."""
    from benchmarks.filters import filtered

    return filtered(passages, 100)


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "rate": rate,
    "memory": memory,
    "filters": filters,
    "docs_raw_mix": partial(corpus, "docs_raw_mix"),
    "docs_postgresql15": partial(corpus, "docs_postgresql15"),
}
SIZED = ("memory", "filters")


def main() -> None:
    from core.cli import _quiet_dependencies

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated, of %(default)s")
    parser.add_argument("--passages", type=int, help=f"another size of the parts {' and '.join(SIZED)}")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only {unknown[0]}: no such part; one of {', '.join(PARTS)}")
    _quiet_dependencies()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    for name in chosen:
        sized = {"passages": arguments.passages} if arguments.passages and name in SIZED else {}
        measured = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip(),
            "machine": {"cores": len(os.sched_getaffinity(0)), "arch": platform.machine()},
            "versions": {one: version(one) for one in ("torch", "sentence-transformers", "chromadb")},
            **PARTS[name](**sized),
        }
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(kept | {name: measured}, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({name: measured}))


if __name__ == "__main__":
    main()

"""Cut the excerpts in this folder out of the full public data sets, the same rows every time.

    python examples/excerpt.py FOLDER

FOLDER holds xquad/, banking77/ and gsm8k/ as JSONL (see examples/README.md for their public homes).
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEED = 7
Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    # Not splitlines(): it also breaks at U+2028 and its like, which stand inside JSON strings.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "input", "output")}


def xquad(source: Path) -> None:
    """All 240 passages; 60 questions to measure on and 40 held out, each marked with the article it is about."""
    write(HERE / "xquad" / "corpus.jsonl", read(source / "corpus_en.jsonl"))
    rows = read(source / "questions_en.jsonl")
    for row in rows:
        row["cluster"] = "article-" + row["context_ids"][0].split("_")[0]
    random.Random(SEED).shuffle(rows)
    write(HERE / "xquad" / "eval.jsonl", rows[:60])
    write(HERE / "xquad" / "held_out.jsonl", rows[60:100])


def banking77(source: Path) -> None:
    """20 training rows a label; 100 rows to measure on and 77 held out, from the test split, none of them in train."""
    full = read(source / "train.jsonl")
    known = {row["input"].strip().lower() for row in full}
    by_label: dict[str, Rows] = defaultdict(list)
    for row in full:
        by_label[row["output"]].append(_short(row))
    train = [row for label in sorted(by_label) for row in random.Random(SEED).sample(by_label[label], 20)]
    test = [_short(row) for row in read(source / "test.jsonl")]
    test = [row for row in test if row["input"].strip().lower() not in known]
    random.Random(SEED).shuffle(test)
    random.Random(SEED).shuffle(train)
    write(HERE / "banking77" / "train.jsonl", train)
    write(HERE / "banking77" / "eval.jsonl", test[:100])
    write(HERE / "banking77" / "held_out.jsonl", test[100:177])


def gsm8k(source: Path) -> None:
    """Questions with their final number: 200 to train on, 200 to measure on, 40 held out."""
    train = [_short(row) for row in read(source / "train.jsonl")]
    test = [_short(row) for row in read(source / "test.jsonl")]
    random.Random(SEED).shuffle(train)
    random.Random(SEED).shuffle(test)
    write(HERE / "gsm8k" / "train.jsonl", train[:200])
    write(HERE / "gsm8k" / "eval.jsonl", test[:200])
    write(HERE / "gsm8k" / "held_out.jsonl", test[200:240])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/excerpt.py FOLDER")
    folder = Path(sys.argv[1])
    xquad(folder / "xquad")
    banking77(folder / "banking77")
    gsm8k(folder / "gsm8k")

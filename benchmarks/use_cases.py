"""Nine public data sets as use cases: what goes into the eval set, the training set, the held-out set and the documents.

Each set lies in its own folder as its home publishes it, brought into rows with `question`/`answers` or `input`/`output`,
`context_ids`, and a `corpus.jsonl` of `id`, `title`, `text`:

    xquad            github.com/google-deepmind/xquad (en, es, zh): questions_LANG.jsonl, corpus_LANG.jsonl
    squad2_dev_half  github.com/chrischute/squad, the CS224N half of SQuAD 2.0's dev set: questions_dev.jsonl
    pubmedqa_l       github.com/pubmedqa/pubmedqa, data/ori_pqal.json; test = test_ground_truth.json
    banking77        github.com/PolyAI-LDN/task-specific-datasets, banking_data
    wikisql_sub      github.com/jkkummerfeld/text2sql-data, data/wikisql.json.bz2, with each table's columns in the input
    gsm8k            github.com/openai/grade-school-math; the output is the number alone
    scifact          github.com/allenai/scifact: claims with `label`, cited abstracts as `context_ids`
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]

REFUSAL = "I don't know."
"""What the SQuAD 2 training rows answer where the passages hold no answer."""


class Sets(NamedTuple):
    """What a use case is drawn from. No row of `train` is in `pool`, and none shares its document where there are any."""

    pool: Rows
    """Eval and held-out items are drawn from these."""
    train: Rows
    corpus: Rows | None


@dataclass(frozen=True)
class UseCaseSpec:
    name: str
    chosen_for: str
    """What the set was chosen to show. The benchmark never looks at it: the best arm is the one that scores best."""
    load: Callable[[Path], Sets]
    settings: dict[str, Any]


def _xquad(language: str) -> Callable[[Path], Sets]:
    def load(data: Path) -> Sets:
        rows = _read(data / "xquad" / f"questions_{language}.jsonl")
        return _by_document(rows, _read(data / "xquad" / f"corpus_{language}.jsonl"))

    return load


def _squad2(data: Path) -> Sets:
    sets = _by_document(
        _read(data / "squad2_dev_half" / "questions_dev.jsonl"), _read(data / "squad2_dev_half" / "corpus.jsonl")
    )
    train = [row if row["answerable"] else {**row, "answers": [REFUSAL], "answerable": True} for row in sets.train]
    return sets._replace(train=train)


def _pubmedqa(data: Path) -> Sets:
    folder = data / "pubmedqa_l"
    keep = ("id", "question", "answers", "context_ids")
    pool, train = (
        [{key: row[key] for key in keep} for row in _read(folder / name)] for name in ("test.jsonl", "train.jsonl")
    )
    return Sets(pool, train, _read(folder / "corpus.jsonl"))


def _scifact(data: Path) -> Sets:
    folder = data / "scifact"
    keep = ("id", "question", "answers", "context_ids", "cited_ids")
    pool, train = (
        [{key: row[key] for key in keep} for row in _read(folder / name)] for name in ("dev.jsonl", "train.jsonl")
    )
    return Sets(pool, train, _read(folder / "corpus.jsonl"))


def _plain(folder: str) -> Callable[[Path], Sets]:
    def load(data: Path) -> Sets:
        keep = ("id", "input", "output")
        train = [{key: row[key] for key in keep} for row in _read(data / folder / "train.jsonl")]
        seen = {row["input"].strip().casefold() for row in train}
        pool = [{key: row[key] for key in keep} for row in _read(data / folder / "test.jsonl")]
        # BANKING77 has 6 test inputs that also stand in train.
        return Sets([row for row in pool if row["input"].strip().casefold() not in seen], train, None)

    return load


USE_CASES = (
    UseCaseSpec("xquad-en", "knowledge", _xquad("en"), {"top_k": 3, "max_tokens": 32}),
    UseCaseSpec("xquad-es", "knowledge, Spanish", _xquad("es"), {"top_k": 3, "max_tokens": 48}),
    UseCaseSpec("xquad-zh", "knowledge, Chinese", _xquad("zh"), {"top_k": 3, "max_tokens": 48}),
    UseCaseSpec(
        "squad2",
        "knowledge, half unanswerable",
        _squad2,
        {
            "top_k": 3,
            "max_tokens": 32,
            "instruction": "Answer briefly. If you do not know the answer, say: I don't know.",
        },
    ),
    UseCaseSpec("pubmedqa", "both", _pubmedqa, {"top_k": 4, "max_tokens": 24}),
    UseCaseSpec("banking77", "behaviour, labels", _plain("banking77"), {"max_tokens": 16}),
    UseCaseSpec("wikisql", "behaviour, dialect", _plain("wikisql_sub"), {"max_tokens": 96}),
    UseCaseSpec("gsm8k", "neither", _plain("gsm8k"), {"max_tokens": 64}),
    UseCaseSpec(
        "scifact",
        "knowledge and labels",
        _scifact,
        {
            "top_k": 2,
            "max_tokens": 16,
            "instruction": "Say whether the scientific literature supports the claim.",
        },
    ),
)


class Files(NamedTuple):
    """A use case as files, ready for `tunefork advise`."""

    eval: Path
    held_out: Path
    train: Path
    corpus: Path | None
    sizes: dict[str, int]
    of: dict[str, int]
    """How many there were to draw from."""


def write_use_case(
    spec: UseCaseSpec, data: Path, target: Path, items: int, held_out: int, train: int, corpus: int | None, seed: int
) -> Files:
    """Draw the use case's sets into the folder `target`; the same arguments write the same files.

    Args:
        corpus: most documents; None: all. What the drawn rows cite is always among them.
    """
    sets = spec.load(data)
    rng = random.Random(f"{seed}/{spec.name}")
    drawn = rng.sample(sets.pool, min(len(sets.pool), items + held_out))
    chosen = {
        "eval": drawn[:items],
        "held_out": drawn[items:],
        "train": rng.sample(sets.train, min(len(sets.train), train)),
    }
    of = {"pool": len(sets.pool), "train": len(sets.train)}
    if sets.corpus is not None:
        of["corpus"] = len(sets.corpus)
        chosen["corpus"] = _documents(sets.corpus, [*drawn, *chosen["train"]], corpus, rng)
    for name, rows in chosen.items():
        for row in rows:
            row.pop("cited_ids", None)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = target / f"{name}.jsonl"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return Files(
        target / "eval.jsonl",
        target / "held_out.jsonl",
        target / "train.jsonl",
        target / "corpus.jsonl" if sets.corpus is not None else None,
        {name: len(rows) for name, rows in chosen.items()},
        of,
    )


def _documents(corpus: Rows, rows: Rows, most: int | None, rng: random.Random) -> Rows:
    if most is None or most >= len(corpus):
        return corpus
    cited = {id for row in rows for id in (*row.get("context_ids", ()), *row.get("cited_ids", ()))}
    kept = [document for document in corpus if document["id"] in cited]
    others = [document for document in corpus if document["id"] not in cited]
    return kept + rng.sample(others, max(0, min(len(others), most - len(kept))))


def _by_document(rows: Rows, corpus: Rows) -> Sets:
    """Half of the articles for training; the others' questions are the pool, clustered by passage."""
    articles = sorted({_article(row) for row in rows})
    learnt = set(random.Random(0).sample(articles, len(articles) // 2))
    pool = [{**row, "cluster": row["context_ids"][0]} for row in rows if _article(row) not in learnt]
    return Sets(pool, [row for row in rows if _article(row) in learnt], corpus)


def _article(row: dict[str, Any]) -> str:
    return str(row["context_ids"][0]).partition("_")[0]


def _read(path: Path) -> Rows:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def named(names: Iterable[str]) -> list[UseCaseSpec]:
    """The use cases of those names, in the order of the table; KeyError-free: an unknown name ends the benchmark."""
    wanted = set(names)
    unknown = wanted - {spec.name for spec in USE_CASES}
    if unknown:
        raise SystemExit(
            f"unknown use case {', '.join(sorted(unknown))}; known: {', '.join(s.name for s in USE_CASES)}"
        )
    return [spec for spec in USE_CASES if spec.name in wanted]

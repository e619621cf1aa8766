"""How well passages are found: ours, without and with reranking, against BM25, the encoder alone and LlamaIndex's default.

    python -m benchmarks.retrieval --data FOLDER [--work FOLDER] [--quick] [--parts quality,latency,evidence,injection]

FOLDER holds the public sets (scifact, xquad, squad2_dev_half, debian_faq), each a corpus.jsonl of {"id","title","text"}
and questions with `context_ids`. SciFact's corpus is 2,791 of BEIR's 5,183 abstracts, so its published figures do not
compare; the peers run beside ours. The weights were chosen on the questions of half of the documents (SciFact: on its
training claims); the questions of the other half are scored here. nDCG and Recall by trec_eval's definitions; intervals
and tests are paired, over questions. --work keeps the indexes between runs. The last line on stdout is one JSON document.

bm25        bm25s, Lucene's variant and constants, stop words and stemmer of the language (Chinese: character pairs)
dense       the same chunks and encoder, by cosine alone
llamaindex  VectorStoreIndex.from_documents with its own splitter and store, on the same encoder; a document counts by
            its best node, of the 30 nearest
ours        as shipped
ours+late   with `rerank_model = "late"`
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from core.cli import _quiet_dependencies
from core.files import read_json, write_json
from core.models import local_folder
from core.progress import say
from core.rows import Row, read_rows
from core.search_settings import SearchSettings
from core.stats import paired_bootstrap, paired_p, resamples, share
from core.workspace import Workspace
from rag.evaluate import ranked_documents, scores
from rag.open import open_retriever
from rag.retrieve import Retriever

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
MOST, QUICK = 1000, 100
"""Questions of a set that are asked."""

DEPTH = 30
METRICS = ("ndcg@10", "recall@5", "recall@1")
OURS = "ours"

Ranking = Callable[[Sequence[str]], list[tuple[str, ...]]]
"""Questions to document ids, best first."""


class Judged(NamedTuple):
    """One set's questions and corpus sizes, and every row's score of each question by metric."""

    n: int
    documents: int
    passages: int
    rows: dict[str, dict[str, list[float]]]


class Set(NamedTuple):
    corpus: str
    questions: str
    language: str


SETS = {
    "xquad-en": Set("xquad/corpus_en.jsonl", "xquad/questions_en.jsonl", "en"),
    "xquad-es": Set("xquad/corpus_es.jsonl", "xquad/questions_es.jsonl", "es"),
    "xquad-zh": Set("xquad/corpus_zh.jsonl", "xquad/questions_zh.jsonl", "zh"),
    "scifact": Set("scifact/corpus.jsonl", "scifact/dev.jsonl", "en"),
    "squad2": Set("squad2_dev_half/corpus.jsonl", "squad2_dev_half/questions_dev.jsonl", "en"),
    "debian-faq": Set("debian_faq/corpus.jsonl", "debian_faq/questions.jsonl", "en"),
}


def questions(path: Path, name: str, part: str, most: int) -> list[Row]:
    """Questions with marked documents: of the half of documents that is `part` (dev or test)."""
    rows = [row for row in read_rows(path, "evaluation") if row.context_ids]
    if name != "scifact":
        rows = [row for row in rows if (sha256(min(row.context_ids).encode()).digest()[0] % 2 == 0) == (part == "dev")]
    return random.Random(0).sample(rows, most) if len(rows) > most else rows


def indexed(name: str, data: Path, workspace: Workspace) -> Retriever:
    """The set's index, made when it is not there yet."""
    from rag.ingest import ingest

    folder, settings = workspace.declare(name, {"docs": (data / SETS[name].corpus,)})
    ingest(folder, settings, workspace, settings.docs)
    return open_retriever(folder, settings, workspace)


def bm25(corpus: Sequence[dict[str, str]], language: str) -> Ranking:
    import bm25s
    import Stemmer

    from rag.lexical import STEMMED, Words

    texts = [f"{row['title']} {row['text']}" for row in corpus]
    if language in STEMMED:
        algorithm, stop = STEMMED[language]
        stemmer = Stemmer.Stemmer(algorithm)
        stop_words = list(getattr(bm25s.stopwords, f"STOPWORDS_{stop}"))

        def words(some: Sequence[str]) -> Any:
            return bm25s.tokenize(some, stopwords=stop_words, stemmer=stemmer, show_progress=False, return_ids=False)
    else:
        own = Words(language)

        def words(some: Sequence[str]) -> Any:
            return [own(text) for text in some]

    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(words(texts), show_progress=False)

    def ranking(asked: Sequence[str]) -> list[tuple[str, ...]]:
        # A question without one known word would be an error of bm25s: it finds nothing.
        found = []
        for tokens in words(asked):
            known = [token for token in tokens if token in index.vocab_dict]
            values = index.get_scores(known) if known else np.zeros(len(texts), np.float32)
            order = np.argsort(-values, kind="stable")[:DEPTH]
            found.append(tuple(corpus[i]["id"] for i in order if values[i] > 0))
        return found

    return ranking


def llamaindex(corpus: Sequence[dict[str, str]], encoder: Any, cache: Path) -> Ranking:
    """Embeddings are kept in the folder `cache`, so that a run that was stopped goes on."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from rag.vectors import VectorFile, VectorWriter, key

    known = VectorFile(cache, encoder.dimensions)

    def embedded(texts: Sequence[str]) -> list[list[float]]:
        vectors = [known.find(key(text)) for text in texts]
        missing = [i for i, vector in enumerate(vectors) if vector is None]
        if missing:
            new = encoder.passages([texts[i] for i in missing])
            with VectorWriter(cache, encoder.dimensions) as writer:
                writer.append([key(texts[i]) for i in missing], new)
            for i, vector in zip(missing, new, strict=True):
                vectors[i] = vector
        return [vector.tolist() for vector in vectors if vector is not None]

    class Embedding(BaseEmbedding):  # type: ignore[misc]
        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embedded(texts)

        def _get_query_embedding(self, query: str) -> list[float]:
            return encoder.queries([query])[0].tolist()  # type: ignore[no-any-return]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    documents = [Document(text=row["text"], metadata={"title": row["title"]}, id_=row["id"]) for row in corpus]
    index = VectorStoreIndex.from_documents(documents, embed_model=Embedding(embed_batch_size=256))
    retriever = index.as_retriever(similarity_top_k=DEPTH)

    def ranking(asked: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(dict.fromkeys(node.node.ref_doc_id for node in retriever.retrieve(text))) for text in asked]

    return ranking


def quality(data: Path, workspace: Workspace, most: int) -> dict[str, Any]:
    """Every row's scores on every set, its paired test against ours, and the means over the sets.

    A set that a stopped run has finished is taken from the workspace.
    """
    kept: dict[str, Judged] = {}
    for name in SETS:
        path = workspace.path / f"quality-{name}-{most}.json"
        if not path.exists():
            write_json(path, _judged(name, data, workspace, most)._asdict())
        kept[name] = Judged(**read_json(path))
    return {"sets": {name: _set(one) for name, one in kept.items()}} | {
        "mean": {row: _mean(list(kept.values()), row) for row in next(iter(kept.values())).rows}
    }


def _judged(name: str, data: Path, workspace: Workspace, most: int) -> Judged:
    one = SETS[name]
    corpus = [json.loads(line) for line in (data / one.corpus).read_text(encoding="utf-8").splitlines()]
    rows = questions(data / one.questions, name, "test", most)
    judged: dict[str, dict[str, list[float]]] = {}
    with indexed(name, data, workspace) as retriever:
        rankings: dict[str, Callable[[], Ranking]] = {
            "bm25": lambda: bm25(corpus, one.language),
            "dense": lambda: _ours(retriever, SearchSettings(method="dense")),
            "llamaindex": lambda: llamaindex(corpus, retriever._encoder, workspace.path / "llamaindex" / name),
            OURS: lambda: _ours(retriever, SearchSettings()),
            "ours+late": lambda: _ours(retriever, SearchSettings(rerank_model="late")),
        }
        for row, ranking in rankings.items():
            start = time.perf_counter()
            ranked = ranking()([question.input for question in rows])
            per = [scores(r, dict.fromkeys(q.context_ids, 1)) for r, q in zip(ranked, rows, strict=True)]
            judged[row] = {metric: [one[metric] for one in per] for metric in METRICS}
            say(f"{name:10} {row:10} nDCG@10 {np.mean(judged[row]['ndcg@10']):.4f} {time.perf_counter() - start:.0f} s")
        return Judged(len(rows), len(corpus), len(retriever._passages), judged)


def _set(one: Judged) -> dict[str, Any]:
    ours = one.rows[OURS]["ndcg@10"]
    return {
        "n": one.n,
        "documents": one.documents,
        "passages": one.passages,
        "rows": {
            row: {metric: _estimate(share(values[metric])) for metric in METRICS}
            | ({} if row == OURS else {"ours_minus": _compared(ours, values["ndcg@10"])})
            for row, values in one.rows.items()
        },
    }


def _ours(retriever: Retriever, settings: SearchSettings) -> Ranking:
    return lambda asked: [ranked_documents(found) for found in retriever.search(asked, DEPTH, settings)]


def _compared(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    return {**_estimate(paired_bootstrap(a, b)), "p": paired_p(a, b)}


def _mean(kept: Sequence[Judged], row: str) -> dict[str, Any]:
    """Mean over sets of nDCG@10, and of ours minus the row's; questions are drawn anew within each set."""
    own = [np.array(one.rows[row]["ndcg@10"]) for one in kept]
    gain = [np.array(one.rows[OURS]["ndcg@10"]) - np.array(one.rows[row]["ndcg@10"]) for one in kept]
    value = {
        "ndcg@10": _stratified(own),
        "recall@5": float(np.mean([np.mean(one.rows[row]["recall@5"]) for one in kept])),
    }
    return value if row == OURS else {**value, "ours_minus": _stratified(gain)}


def _stratified(values: Sequence[np.ndarray]) -> dict[str, float]:
    draws = np.mean([resamples(len(one), seed=i) @ one / len(one) for i, one in enumerate(values)], axis=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(np.mean([one.mean() for one in values])), "low": float(low), "high": float(high)}


def _estimate(estimate: Any) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep the indexes here")
    parser.add_argument("--parts", default="quality,latency,evidence,injection")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} questions a set, small sizes")
    arguments = parser.parse_args()
    _quiet_dependencies()
    local_folder("all-minilm-l6-v2", MODELS)
    found = read_json(RESULTS) if RESULTS.exists() else {}
    with TemporaryDirectory() as temporary:
        home = arguments.work or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "models").exists():
            (home / "models").symlink_to(MODELS)
        for part in arguments.parts.split(","):
            start = time.perf_counter()
            value = _part(part, arguments.data, Workspace(home), arguments.quick)
            found[part] = {
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {
                    name: version(name) for name in ("bm25s", "chromadb", "llama-index-core", "numpy", "torch")
                },
                "quick": arguments.quick,
                "wall_s": time.perf_counter() - start,
                **value,
            }
            if not arguments.quick:
                write_json(RESULTS, found)
    print(json.dumps(found if not arguments.quick else {part: found[part] for part in arguments.parts.split(",")}))


def _part(part: str, data: Path, workspace: Workspace, quick: bool) -> dict[str, Any]:
    if part == "quality":
        return quality(data, workspace, QUICK if quick else MOST)
    if part == "latency":
        from benchmarks.retrieval_latency import latency

        return latency((2_000, 5_000) if quick else (5_000, 50_000, 500_000))
    from benchmarks import grounding

    return {"evidence": grounding.evidence, "injection": grounding.injection}[part](data, workspace, quick)


if __name__ == "__main__":
    main()

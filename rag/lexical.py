"""Search by words: BM25 (Lucene's variant, by bm25s) over stemmed words, and over character pairs of Chinese and Japanese.

Names, numbers and codes are where sentence encoders are weakest and words are strongest.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ArtifactError
from core.files import read_json, write_json
from rag.fusion import Hits

K1, B = 1.2, 0.75
"""Lucene's defaults."""

LANGUAGES = {
    "english": "STOPWORDS_EN",
    "german": "STOPWORDS_GERMAN",
    "french": "STOPWORDS_FRENCH",
    "spanish": "STOPWORDS_SPANISH",
    "italian": "STOPWORDS_ITALIAN",
    "portuguese": "STOPWORDS_PORTUGUESE",
    "dutch": "STOPWORDS_DUTCH",
    "swedish": "STOPWORDS_SWEDISH",
    "norwegian": "STOPWORDS_NORWEGIAN",
    "danish": "STOPWORDS_DANISH",
    "russian": "STOPWORDS_RUSSIAN",
    "turkish": "STOPWORDS_TURKISH",
}
"""Languages with a Snowball stemmer and a list of stop words."""

_SAMPLE = 500
_MAX_STEMS = 500_000
_WORD = re.compile(r"\w+")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_SCRIPTS = re.compile(f"[{_CJK}]+|[^{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]")


class Words:
    """Texts to the words they are found by, in one language ("" is none: no stems, no stop words)."""

    def __init__(self, language: str) -> None:
        import Stemmer

        self.language = language
        self._stop = _stop_words(language) if language else frozenset()
        # A PyStemmer object is not thread-safe: each call makes one, for the words not met before.
        self._stemmer = Stemmer.Stemmer
        self._stems: dict[str, str] = {}

    def __call__(self, text: str) -> list[str]:
        words: list[str] = []
        for run in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
            for part in _SCRIPTS.findall(run) if _IS_CJK.search(run) else (run,):
                if _IS_CJK.match(part):
                    words.extend(part[i : i + 2] for i in range(max(1, len(part) - 1)))
                elif part not in self._stop:
                    words.append(part)
        if not self.language:
            return words
        stems = self._stems
        if len(stems) > _MAX_STEMS:
            stems = self._stems = {}
        new = [word for word in words if word not in stems]
        if new:
            stems.update(zip(new, self._stemmer(self.language).stemWords(new), strict=True))
        return [stems[word] for word in words]


def guess_language(texts: Iterable[str]) -> str:
    """The language whose stop words are most common in `texts`; "" when none makes up a twentieth of the words."""
    counts: Counter[str] = Counter()
    for text in islice(texts, _SAMPLE):
        counts.update(_WORD.findall(text.lower()))
    total = sum(counts.values())
    if not total:
        return ""
    shares = {language: sum(counts[word] for word in _stop_words(language)) / total for language in LANGUAGES}
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= 0.05 else ""


class Lexical:
    """A BM25 index over the rows of a version. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open what `build_lexical` wrote; its arrays stay on the disk.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        import bm25s

        try:
            meta = read_json(folder / "words.json")
            self._words = Words(meta["language"])
            self._index: Any = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)
        except (OSError, ValueError, KeyError) as exc:
            raise ArtifactError(f"{folder}: damaged index ({exc}); run `tunefork ingest` again") from exc
        self._vocabulary: dict[str, int] = self._index.vocab_dict

    def search(self, text: str, k: int) -> Hits:
        """Up to `k` rows that share a word with `text`, best first."""
        ids = [self._vocabulary[word] for word in self._words(text) if word in self._vocabulary]
        if not ids:
            return Hits([], [])
        scores = self._index.get_scores_from_ids(ids)
        top = np.argpartition(-scores, k)[:k] if k < len(scores) else np.arange(len(scores))
        top = top[scores[top] > 0]
        top = top[np.lexsort((top, -scores[top]))]
        return Hits(top.tolist(), scores[top].tolist())


def build_lexical(folder: Path, texts: Iterable[str], language: str) -> None:
    """Write the BM25 index of `texts` (one a row, in order) to `folder`."""
    import bm25s

    words = Words(language)
    vocabulary: dict[str, int] = {}
    rows = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
    # bm25s cannot index a corpus without a single word.
    vocabulary.setdefault("", len(vocabulary))
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index((rows, vocabulary), show_progress=False)
    index.save(str(folder), show_progress=False)
    write_json(folder / "words.json", {"language": language})


def _stop_words(language: str) -> frozenset[str]:
    from bm25s import stopwords

    return frozenset(getattr(stopwords, LANGUAGES[language]))

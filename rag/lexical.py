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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError
from core.files import read_json, write_json

K1, B = 1.2, 0.75
"""Lucene's defaults."""

STEMMED = {
    "en": ("english", "EN"),
    "de": ("german", "GERMAN"),
    "fr": ("french", "FRENCH"),
    "es": ("spanish", "SPANISH"),
    "it": ("italian", "ITALIAN"),
    "pt": ("portuguese", "PORTUGUESE"),
    "nl": ("dutch", "DUTCH"),
    "sv": ("swedish", "SWEDISH"),
    "no": ("norwegian", "NORWEGIAN"),
    "da": ("danish", "DANISH"),
    "ru": ("russian", "RUSSIAN"),
    "tr": ("turkish", "TURKISH"),
}
"""Languages with a Snowball stemmer and a list of stop words in bm25s: their names there."""

_SAMPLE = 500
_MAX_STEMS = 500_000
_WORD = re.compile(r"\w+")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_SCRIPTS = re.compile(f"[{_CJK}]+|[^{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]")


class Words:
    """Texts to the words they are found by, in one language (ISO code; of others than `STEMMED` there are no stems)."""

    def __init__(self, language: str) -> None:
        import Stemmer

        self._stop = _stop_words(language) if language in STEMMED else frozenset()
        # A PyStemmer object is not thread-safe: each call makes one, for the words not met before.
        self._stemmer = Stemmer.Stemmer
        self._algorithm = STEMMED[language][0] if language in STEMMED else ""
        self._stems: dict[str, str] = {}

    def __call__(self, text: str) -> list[str]:
        words: list[str] = []
        for run in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
            for part in _SCRIPTS.findall(run) if _IS_CJK.search(run) else (run,):
                if _IS_CJK.match(part):
                    words.extend(part[i : i + 2] for i in range(max(1, len(part) - 1)))
                elif part not in self._stop:
                    words.append(part)
        if not self._algorithm:
            return words
        stems = self._stems
        if len(stems) > _MAX_STEMS:
            stems = self._stems = {}
        new = [word for word in words if word not in stems]
        if new:
            stems.update(zip(new, self._stemmer(self._algorithm).stemWords(new), strict=True))
        return [stems[word] for word in words]


def guess_language(texts: Iterable[str]) -> str:
    """ISO code of the language of `texts`: by script for Chinese, Japanese and Korean, else by stop words.

    "" when neither tells: a twentieth of the words must be stop words, a fifth of the letters of the script.
    """
    words: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for text in islice(texts, _SAMPLE):
        words.update(_WORD.findall(text.lower()))
        letters.update(text)
    total, all_letters = sum(words.values()), sum(n for letter, n in letters.items() if letter.isalpha())
    if not total or not all_letters:
        return ""
    for code, script in (("ko", "[\uac00-\ud7af]"), ("ja", "[\u3040-\u30ff]"), ("zh", f"[{_CJK}]")):
        if sum(n for letter, n in letters.items() if re.match(script, letter)) >= all_letters / 5:
            return code
    shares = {code: sum(words[word] for word in _stop_words(code)) / total for code in STEMMED}
    best_code = max(shares, key=lambda code: shares[code])
    return best_code if shares[best_code] >= 0.05 else ""


class Scored(NamedTuple):
    """What a text's words find."""

    scores: NDArray[np.float32]
    """(rows,) BM25, in nats."""
    ceiling: float
    """No row can have more."""


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
            raise ArtifactError(f"{folder}: the word index cannot be read ({exc})") from exc
        self._vocabulary: dict[str, int] = self._index.vocab_dict
        self.rows = int(self._index.scores["num_docs"])
        frequency = np.diff(np.asarray(self._index.scores["indptr"]))
        self._idf = np.log1p((self.rows - frequency + 0.5) / (frequency + 0.5))
        self._unseen_idf = float(np.log1p((self.rows + 0.5) / 0.5))

    def scores(self, text: str) -> Scored:
        """BM25 of every row for `text`, and the most that its words could give.

        Lucene's BM25 of a word stays below its inverse document frequency, so their sum is the ceiling. A word that no
        passage has counts with the highest there: a text of unknown words is found nowhere.
        """
        words = self._words(text)
        known = [self._vocabulary[word] for word in words if word in self._vocabulary]
        if not known:
            return Scored(np.zeros(self.rows, np.float32), max(1, len(words)) * self._unseen_idf)
        ceiling = float(self._idf[known].sum()) + (len(words) - len(known)) * self._unseen_idf
        return Scored(np.asarray(self._index.get_scores_from_ids(known), np.float32), ceiling)


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Up to `k` rows with the highest scores above 0, in no order."""
    top = np.argpartition(-scores, k)[:k] if k < len(scores) else np.arange(len(scores))
    return top[scores[top] > 0].astype(np.int64)


def build_lexical(folder: Path, texts: Iterable[str], language: str) -> None:
    """Write the BM25 index of `texts` (one a row, in order) to `folder`."""
    import bm25s

    words = Words(language)
    vocabulary: dict[str, int] = {}
    rows = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
    if not vocabulary and rows:
        # bm25s cannot index a corpus without a single word; nobody asks for this one.
        rows[0] = [vocabulary.setdefault("", 0)]
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index((rows, vocabulary), show_progress=False)
    index.save(str(folder), show_progress=False)
    write_json(folder / "words.json", {"language": language})


def _stop_words(language: str) -> frozenset[str]:
    from bm25s import stopwords

    return frozenset(getattr(stopwords, f"STOPWORDS_{STEMMED[language][1]}"))

from __future__ import annotations

import math
from pathlib import Path

import pytest

from core.errors import ArtifactError
from rag.fusion import DENSE_WEIGHT, FOREIGN_WEIGHT, dense_weight
from rag.lexical import Lexical, Words, best, build_lexical, guess_language

TEXTS = [
    "The pump runs at four bar.",
    "Running a pump dry harms its seals.",
    "Error E-4711 means that the valve is stuck.",
    "大熊猫主要以竹子为食。",
    "",
]


@pytest.fixture
def index(tmp_path: Path) -> Lexical:
    build_lexical(tmp_path, TEXTS, "en")
    return Lexical(tmp_path)


def ranking(index: Lexical, text: str) -> list[int]:
    scores = index.scores(text).scores
    return sorted(best(scores, 10).tolist(), key=lambda row: -scores[row])


def test_words_are_found_in_any_inflection(index: Lexical) -> None:
    assert set(ranking(index, "which pumps ran or run?")) == {0, 1}


def test_a_code_is_found_by_its_digits(index: Lexical) -> None:
    assert ranking(index, "what is e-4711") == [2]


def test_chinese_is_found_by_pairs_of_characters(index: Lexical) -> None:
    assert ranking(index, "熊猫吃什么") == [3]


def test_unknown_words_find_nothing(index: Lexical) -> None:
    assert ranking(index, "xylophone zebra") == []
    assert ranking(index, "") == []


def test_no_score_reaches_what_the_words_could_give(index: Lexical) -> None:
    full = index.scores("valve stuck error")
    assert 0 < full.scores[2] < full.ceiling
    more = index.scores("valve stuck error xylophone zebra quagga")
    assert more.scores[2] == full.scores[2]
    assert more.ceiling > full.ceiling


def test_a_corpus_without_a_word_can_be_indexed(tmp_path: Path) -> None:
    build_lexical(tmp_path, ["...", "!!!"], "")
    assert ranking(Lexical(tmp_path), "anything") == []


def test_a_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the word index cannot be read"):
        Lexical(tmp_path)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The pump and the valve are in the cellar, and that is where they have to be.", "en"),
        ("La bomba y la válvula están en el sótano, que es donde tienen que estar.", "es"),
        ("Die Pumpe und das Ventil sind im Keller, und da müssen sie auch sein.", "de"),
        ("黑豹队的防守只丢了 308分，在联赛中排名第六。", "zh"),
        ("東京は日本の首都であり、人口が最も多い都市です。", "ja"),
        ("서울은 대한민국의 수도이자 최대 도시이다.", "ko"),
        ("4711 0815 x42", ""),
    ],
)
def test_the_language_is_told_by_script_or_stop_words(text: str, language: str) -> None:
    assert guess_language([text]) == language


def test_mixed_scripts_in_one_word_are_taken_apart() -> None:
    assert Words("")("GPT模型 v2") == ["gpt", "模型", "v2"]


def test_words_weigh_more_where_the_encoder_is_for_another_language() -> None:
    assert dense_weight(("en",), "zh") == FOREIGN_WEIGHT
    assert {dense_weight(("en",), "en"), dense_weight((), "zh"), dense_weight(("en",), "")} == {DENSE_WEIGHT}
    assert dense_weight(("multilingual",), "zh") == DENSE_WEIGHT


def test_scores_are_those_of_lucene_by_hand(tmp_path: Path) -> None:
    texts = ["red apple red", "green apple", "a long text about something else, without any fruit at all"]
    build_lexical(tmp_path, texts, "en")
    words = Words("en")
    lengths = [len(words(text)) for text in texts]
    mean = sum(lengths) / 3

    def bm25(tf: int, df: int, length: int) -> float:
        idf = math.log(1 + (3 - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * length / mean))

    found = Lexical(tmp_path).scores("red apples?").scores
    expected = [bm25(2, 1, lengths[0]) + bm25(1, 2, lengths[0]), bm25(1, 2, lengths[1]), 0]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)

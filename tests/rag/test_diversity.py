from __future__ import annotations

import numpy as np

from rag.diversity import Kept, alike, marginal, shingles

TEXT = "The Panama Canal opened in 1914 and joins the Atlantic to the Pacific Ocean."


def test_a_text_is_like_itself_whatever_the_case_and_the_signs() -> None:
    assert alike(shingles(TEXT), shingles(TEXT.upper().replace(" ", " - "))) == 1


def test_one_word_changed_in_a_long_text_leaves_a_near_duplicate() -> None:
    long = " ".join(f"word{i}" for i in range(200))
    assert alike(shingles(long), shingles(long.replace("word100", "other"))) > 0.9
    assert alike(shingles(TEXT), shingles("Green tea is steeped in water of seventy degrees for two minutes.")) == 0


def test_the_first_one_alike_is_named() -> None:
    kept = Kept(0.8)
    long = " ".join(f"word{i}" for i in range(100))
    for text in (TEXT, long, long.replace("word9 ", "nine ")):
        kept.add(text)
    assert kept.like(long.replace("word50", "other")) == 1
    assert kept.like("Something else altogether, with words of its own.") is None


def test_chinese_is_compared_by_characters() -> None:
    assert alike(shingles("大熊猫主要以竹子为食。"), shingles("大熊猫主要以竹子为食")) == 1
    assert 0 < alike(shingles("大熊猫主要以竹子为食"), shingles("大熊猫主要以鱼为食")) < 1


def test_marginal_relevance_prefers_something_else_to_more_of_the_same() -> None:
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1]], np.float32)
    assert marginal([0.9, 0.89, 0.6], vectors, 3, 0.5) == [0, 2, 1]
    assert marginal([0.9, 0.89, 0.6], vectors, 2, 0.99) == [0, 1]


def test_no_more_are_chosen_than_there_are() -> None:
    assert marginal([0.1], np.ones((1, 2), np.float32), 5, 0.7) == [0]

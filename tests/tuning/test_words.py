"""Words beside the encoder's features: used where they help, saved with the head, left out where they do not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.errors import ArtifactError
from tuning.head import fit_head, load_head_weights, save_head
from tuning.recipe import HeadRecipe
from tuning.words import count_words, fit_words

WORDS = ("refund", "top-up", "transfer", "card")


def _texts(n: int, seed: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Texts whose label one word among others decides, features that say nothing, and the labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % len(WORDS)
    fillers = rng.choice(["please", "my", "account", "now", "help", "today"], (n, 4))
    texts = [" ".join([*row[:2], WORDS[label], *row[2:]]) for row, label in zip(fillers, y, strict=True)]
    return texts, rng.normal(size=(n, 8)).astype(np.float32), [WORDS[label] for label in y]


def test_words_decide_where_the_encoder_is_blind(tmp_path: Path) -> None:
    texts, features, answers = _texts(120, 0)
    blind = fit_head(features, answers, HeadRecipe())
    fit = fit_head(features, answers, HeadRecipe(), texts)
    assert blind.correct < 60 < 105 < fit.correct
    fresh, unseen, expected = _texts(200, 1)
    p = fit.head.probabilities(unseen, fresh)
    assert np.mean([fit.head.labels[i] == label for i, label in zip(p.argmax(axis=1), expected, strict=True)]) > 0.9

    save_head(tmp_path, fit.head)
    assert np.array_equal(load_head_weights(tmp_path).probabilities(unseen, fresh), p)


def test_words_that_say_nothing_are_left_out() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    features = (np.eye(4)[y] * 3 + rng.normal(size=(200, 4))).astype(np.float32)
    texts = [" ".join(rng.choice(["a", "bb", "cc", "dd", "ee"], 6)) for _ in y]
    assert fit_head(features, [f"label {i}" for i in y], HeadRecipe(), texts).head.words is None


def test_log_odds_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB

    texts, _, answers = _texts(60, 0)
    y = np.array([WORDS.index(answer) for answer in answers])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    model = MultinomialNB(alpha=0.02, fit_prior=False).fit(vectorizer.fit_transform(texts), y)
    fresh = ["a refund now", "top-up my card"]
    theirs = model.predict_joint_log_proba(vectorizer.transform(fresh))
    ours = fit_words(count_words(texts), y, len(WORDS)).logits(count_words(fresh))
    assert np.allclose(ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean(axis=1, keepdims=True), atol=0.02)


def test_chinese_characters_are_words() -> None:
    texts = ["我的卡丢了", "卡被偷了", "怎么充值", "充值失败"]
    found = fit_words(count_words(texts), np.array([0, 0, 1, 1]), 2).logits(count_words(["新卡", "充值"]))
    assert list(found.argmax(axis=1)) == [0, 1]


def test_an_empty_text_has_no_evidence() -> None:
    found = fit_words(count_words(["yes", "no", ""]), np.array([0, 1, 1]), 3).logits(count_words(["", "unseen"]))
    assert not found.any()


def test_words_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    texts, features, answers = _texts(80, 0)
    save_head(tmp_path, fit_head(features, answers, HeadRecipe(), texts).head)
    tensors = load_file(tmp_path / "head.safetensors")
    save_file(tensors | {"words.columns": tensors["words.columns"][1:]}, tmp_path / "head.safetensors")
    with pytest.raises(ArtifactError, match=re.escape("the words' weights are")):
        load_head_weights(tmp_path)

"""Heads for answers that are not one label: several labels a row, or a number. Both on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DataError
from core.label_lists import listed, separator
from tuning.encoder import Features
from tuning.head import Fit, Head, Logits, calibration_error, climb, sigmoid
from tuning.recipe import HeadRecipe

RIDGES = tuple(10.0**power for power in range(-4, 4))
"""Penalties a row, on features scaled to unit variance on average."""


def fit_multi_label(features: Features, answers: Sequence[str], recipe: HeadRecipe) -> Fit:
    """A logistic regression a label, one penalty and one temperature for all, chosen on held-out folds.

    A row counts as right when its whole set of labels is.

    Raises:
        DataError: fewer than two labels.
    """
    sets = [listed(answer) for answer in answers]
    labels = tuple(sorted({label for some in sets for label in some}))
    if len(labels) < 2:
        raise DataError(f"the {len(answers)} training rows have {len(labels)} labels; a head needs two or more")
    hot = np.array([[label in some for label in labels] for some in map(set, sets)], dtype=bool)
    folds = np.random.default_rng(recipe.seed).permutation(len(answers)) % recipe.folds
    seen: dict[float, tuple[float, Logits, float]] = {}

    def loss(strength: float) -> float:
        if strength not in seen:
            logits = np.zeros(hot.shape)
            for fold in range(recipe.folds):
                test = folds == fold
                logits[test] = _one_by_one(features[~test], hot[~test], labels, strength).logits(features[test])
            temperature = _temperature(logits, hot)
            seen[strength] = _cross_entropy(logits / temperature, hot), logits, temperature
        return seen[strength][0]

    strength = climb(sorted(recipe.strengths), loss)
    least, logits, temperature = loss(strength), *seen[strength][1:]
    fitted = _one_by_one(features, hot, labels, strength)
    head = Head(labels, fitted.weight, fitted.bias, temperature, "multi", separator=separator(answers))
    probabilities = sigmoid(logits / temperature)
    wanted = [set(some) for some in sets]
    right = np.array([set(listed(head.answer(row))) == want for row, want in zip(probabilities, wanted, strict=True)])
    confidence = np.array([head.confidence(row) for row in probabilities])
    error = calibration_error(
        np.maximum(probabilities, 1 - probabilities).ravel(), ((probabilities >= 0.5) == hot).ravel()
    )
    return Fit(head, strength, int(right.sum()), len(right), least, error, confidence, right)


def _one_by_one(features: Features, hot: NDArray[np.bool_], labels: tuple[str, ...], strength: float) -> Head:
    from sklearn.linear_model import LogisticRegression

    weight = np.zeros((len(labels), features.shape[1]), dtype=np.float32)
    bias = np.zeros(len(labels), dtype=np.float32)
    for i in range(len(labels)):
        positive = int(hot[:, i].sum())
        if 0 < positive < len(hot):
            model: Any = LogisticRegression(C=strength, max_iter=2000).fit(features, hot[:, i])
            weight[i], bias[i] = model.coef_[0], model.intercept_[0]
        else:  # all rows or none: the odds with one more row of each kind
            bias[i] = np.log((positive + 1) / (len(hot) - positive + 1))
    return Head(labels, weight, bias, task="multi")


def _cross_entropy(logits: Logits, hot: NDArray[Any]) -> float:
    """Mean loss a label, nats."""
    return float((np.logaddexp(0, logits) - logits * hot).mean())


def _temperature(logits: Logits, hot: NDArray[np.bool_]) -> float:
    """As `head.fit_temperature`: one more row, half of it with each label, keeps a faultless head from certainty."""
    from scipy.optimize import minimize_scalar

    seen = (len(hot) * hot + 0.5) / (len(hot) + 1)
    found = minimize_scalar(
        lambda log_t: _cross_entropy(logits / np.exp(log_t), seen),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


@dataclass(frozen=True)
class NumberFit:
    head: Head
    ridge: float
    mean_absolute_error: float
    """In cross-validation."""
    baseline_error: float
    """Of always answering the mean of the training rows."""
    r2: float
    judged: int


def fit_number(features: Features, answers: Sequence[str], recipe: HeadRecipe) -> NumberFit:
    """Ridge regression, the penalty chosen on held-out folds by squared error.

    Raises:
        DataError: an answer is no number, or all are the same.
    """
    y = np.array([_number(answer) for answer in answers])
    if np.ptp(y) == 0:
        raise DataError(f"all {len(y)} training rows have the answer {answers[0]!r}; there is nothing to learn")
    folds = np.random.default_rng(recipe.seed).permutation(len(y)) % min(recipe.folds, len(y))
    x = features.astype(np.float64)
    held_out = {ridge: np.zeros(len(y)) for ridge in RIDGES}
    baseline = np.zeros(len(y))
    for fold in range(folds.max() + 1):
        test = folds == fold
        baseline[test] = y[~test].mean()
        for ridge, (weight, bias) in _ridge_path(x[~test], y[~test]).items():
            held_out[ridge][test] = x[test] @ weight + bias
    best = min(RIDGES, key=lambda ridge: float(((held_out[ridge] - y) ** 2).mean()))
    weight, bias = _ridge_path(x, y)[best]
    decimals = max(len(answer.strip().partition(".")[2]) for answer in answers)
    head = Head(
        (), weight.astype(np.float32)[None], np.array([bias], dtype=np.float32), task="number", decimals=decimals
    )
    residual = ((held_out[best] - y) ** 2).sum()
    return NumberFit(
        head,
        best,
        float(np.abs(held_out[best] - y).mean()),
        float(np.abs(baseline - y).mean()),
        float(1 - residual / ((baseline - y) ** 2).sum()),
        len(y),
    )


def _ridge_path(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[float, tuple[NDArray[np.float64], float]]:
    """(weight, bias) for each of `RIDGES`, from one decomposition."""
    mean, middle = x.mean(axis=0), y.mean()
    left, singular, right = np.linalg.svd(x - mean, full_matrices=False)
    scale = (singular**2).sum() / x.shape[1]
    target = singular * (left.T @ (y - middle))
    weights = {ridge: right.T @ (target / (singular**2 + ridge * scale)) for ridge in RIDGES}
    return {ridge: (weight, float(middle - weight @ mean)) for ridge, weight in weights.items()}


def _number(answer: str) -> float:
    try:
        value = float(answer)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{answer[:60]!r} is not a number; --task number needs one in every row")
    return value

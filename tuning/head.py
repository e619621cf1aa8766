"""The head recipe: features of a sentence encoder, a logistic head on them, probabilities that mean something.

Multinomial logistic regression has one knob, the penalty, and its optimum is unique: at 20 to 10,000 rows it is
hard to beat on frozen features, and it fits in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError, DataError
from core.files import read_json, write_json
from tuning.encoder import Features
from tuning.recipe import HeadRecipe

Labels = NDArray[np.int64]
"""[rows], indices into the label list"""
Logits = NDArray[np.float64]
"""[rows, labels]"""


@dataclass(frozen=True)
class Head:
    """Features to label probabilities."""

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    """[labels, dimension]"""
    bias: NDArray[np.float32]
    """[labels]"""
    temperature: float = 1.0
    """Divides the logits; fitted on rows the head had not seen."""

    def logits(self, features: Features) -> Logits:
        return features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, features: Features) -> Logits:
        """[rows, labels], each row adds up to 1."""
        return softmax(self.logits(features) / self.temperature)


@dataclass(frozen=True)
class Fit:
    head: Head
    strength: float
    """The inverse penalty C that won."""
    correct: int
    """Rows whose label was right in cross-validation, by heads that had not seen them."""
    judged: int
    """Rows that were cross-validated; a label with one row cannot be."""
    log_loss: float
    """Of the calibrated cross-validated probabilities, nats a row."""
    calibration_error: float
    """Expected calibration error of the same, 15 equal-width bins (Guo 2017)."""


def fit_head(features: Features, answers: Sequence[str], recipe: HeadRecipe) -> Fit:
    """The logistic head for `answers`, penalty and temperature chosen on held-out folds, then fitted on all rows.

    Raises:
        DataError: fewer than two labels.
    """
    labels = tuple(sorted(set(answers)))
    if len(labels) < 2:
        raise DataError(
            f"all {len(answers)} training rows have the answer {labels[0]!r}; a head needs two labels or more"
            if labels
            else "there are no training rows"
        )
    index = {label: i for i, label in enumerate(labels)}
    y = np.array([index[answer] for answer in answers], dtype=np.int64)
    folds = stratified_folds(y, recipe.folds, recipe.seed)
    judged = folds >= 0
    if not judged.any():
        # Every label has a single row: nothing can be held out, so the middle strength stands uncalibrated.
        strength = sorted(recipe.strengths)[len(recipe.strengths) // 2]
        return Fit(_logistic(features, y, labels, strength), strength, 0, 0, float("nan"), float("nan"))
    held_out = {c: _held_out_logits(features, y, folds, labels, c)[judged] for c in recipe.strengths}
    losses = {c: log_loss(logits, y[judged]) for c, logits in held_out.items()}
    strength = min(losses, key=lambda c: (losses[c], c))
    logits = held_out[strength]
    temperature = fit_temperature(logits, y[judged])
    probabilities = softmax(logits / temperature)
    right = probabilities.argmax(axis=1) == y[judged]
    return Fit(
        replace(_logistic(features, y, labels, strength), temperature=temperature),
        strength,
        int(right.sum()),
        int(judged.sum()),
        log_loss(logits / temperature, y[judged]),
        calibration_error(probabilities.max(axis=1), right),
    )


def stratified_folds(y: Labels, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each row, every label spread evenly; -1 (always trained on) for a label's only row."""
    rng = np.random.default_rng(seed)
    assigned = np.full(len(y), -1, dtype=np.int64)
    start = 0
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        if len(rows) > 1:
            # Each label starts where the one before ended, so small labels do not all land in the first folds.
            assigned[rows] = (start + np.arange(len(rows))) % folds
            start += len(rows)
    return assigned


def fit_temperature(logits: Logits, y: Labels) -> float:
    """The temperature with the least log loss (Guo 2017, temperature scaling), between 0.05 and 20."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), y), bounds=(np.log(0.05), np.log(20.0)), method="bounded"
    )
    return float(np.exp(found.x))


def log_loss(logits: Logits, y: Labels) -> float:
    """Mean negative log-likelihood, nats a row."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal-width bins, weighted by their rows."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))


def softmax(logits: Logits) -> Logits:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def save_head(folder: Path, head: Head) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": head.weight, "bias": head.bias}, folder / "head.safetensors")
    write_json(folder / "labels.json", {"labels": list(head.labels), "temperature": head.temperature})


def load_head_weights(folder: Path) -> Head:
    """Raises ArtifactError when the files are missing, damaged or do not belong together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = read_json(folder / "labels.json")
        tensors = load_file(folder / "head.safetensors")
        head = Head(tuple(about["labels"]), tensors["weight"], tensors["bias"], float(about["temperature"]))
    except (FileNotFoundError, KeyError, TypeError, ValueError, SafetensorError) as exc:
        raise ArtifactError(f"{folder}: the head is damaged ({exc}); train it again with `tunefork tune`") from exc
    if head.weight.shape[:1] != (len(head.labels),) or head.bias.shape != (len(head.labels),):
        raise ArtifactError(f"{folder}: labels.json names {len(head.labels)} labels, the weights {len(head.weight)}")
    return head


def _held_out_logits(
    features: Features, y: Labels, folds: NDArray[np.int64], labels: tuple[str, ...], strength: float
) -> Logits:
    """Logits of each row by a head trained on the other folds; rows of fold -1 stay zero."""
    logits = np.zeros((len(y), len(labels)))
    for fold in range(folds.max() + 1):
        test = folds == fold
        if test.any() and len(np.unique(y[~test])) > 1:
            logits[test] = _logistic(features[~test], y[~test], labels, strength).logits(features[test])
    return logits


def _logistic(features: Features, y: Labels, labels: tuple[str, ...], strength: float) -> Head:
    """The head fitted on rows that may lack some labels; those get the bias of an event never seen."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(features, y)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # Two classes are fitted as one logit z; softmax of (-z/2, z/2) is the same probability.
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((len(labels), features.shape[1]), dtype=np.float32)
    full_bias = np.full(len(labels), bias.min() - np.log(len(y) + 1.0), dtype=np.float32)
    full_weight[model.classes_], full_bias[model.classes_] = weight, bias
    return Head(labels, full_weight, full_bias)

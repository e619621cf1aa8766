"""The head recipe: features of a sentence encoder, a logistic head on them, probabilities that mean something.

Multinomial logistic regression has one knob, the penalty, and its optimum is unique: at 20 to 10,000 rows it is
hard to beat on frozen features, and it fits in seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError, DataError
from core.files import read_json, write_json
from tuning.encoder import Features
from tuning.recipe import HeadRecipe
from tuning.words import Words, count_words, fit_words

Labels = NDArray[np.int64]
"""[rows], indices into the label list"""
Logits = NDArray[np.float64]
"""[rows, labels]"""


Task = Literal["single", "multi", "number"]

WORD_TENSORS = ("columns", "idf", "weight")
WORD_SHARES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
"""Of the words' log odds beside the encoder's calibrated ones, to choose among; 0 leaves them out."""


@dataclass(frozen=True)
class Head:
    """Features to label probabilities, or to a number."""

    labels: tuple[str, ...]
    """() where the answer is a number."""
    weight: NDArray[np.float32]
    """[labels, dimension]"""
    bias: NDArray[np.float32]
    """[labels]"""
    temperature: float = 1.0
    """Divides the logits; fitted on rows the head had not seen."""
    task: Task = "single"
    decimals: int = 0
    """Of a number."""
    words: Words | None = None
    """What is added for the texts themselves."""
    separator: str = ", "
    """Between the labels of one answer."""

    def logits(self, features: Features, texts: Sequence[str] | None = None) -> Logits:
        """[rows, labels].

        Args:
            texts: what `features` are of; a head with `words` needs them.
        """
        dense = features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        if self.words is None:
            return dense
        if texts is None:
            raise ValueError("this head reads the texts too")
        return np.asarray(dense + self.words.logits(count_words(texts)))

    def probabilities(self, features: Features, texts: Sequence[str] | None = None) -> Logits:
        """[rows, labels]; each row adds up to 1 unless a row may have several labels. Of a number: itself, [rows, 1]."""
        if self.task == "number":
            return self.logits(features)
        logits = self.logits(features, texts) / self.temperature
        return sigmoid(logits) if self.task == "multi" else softmax(logits)

    def answer(self, probabilities: Logits) -> str:
        """What is said for one row of `probabilities`: its label; all labels more probable than not, at least one; or the
        number, in as many decimals as the training answers had."""
        if self.task == "number":
            return f"{probabilities[0]:.{self.decimals}f}"
        chosen = probabilities >= 0.5 if self.task == "multi" else np.zeros(len(self.labels), dtype=bool)
        if not chosen.any():
            return self.labels[int(probabilities.argmax())]
        return self.separator.join(label for label, is_chosen in zip(self.labels, chosen, strict=True) if is_chosen)

    def confidence(self, probabilities: Logits) -> float:
        """How probable that answer is; of several labels, that each is right and none is missing. A number's is 1."""
        if self.task == "number":
            return 1.0
        sure = np.maximum(probabilities, 1 - probabilities)
        return float(sure.prod()) if self.task == "multi" else float(probabilities.max())


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
    confidence: NDArray[np.float64]
    """[judged], of the cross-validated answers."""
    right: NDArray[np.bool_]
    """[judged], whether they were right."""


def fit_head(features: Features, answers: Sequence[str], recipe: HeadRecipe, texts: Sequence[str] | None = None) -> Fit:
    """The logistic head for `answers`, penalty and temperature chosen on held-out folds, then fitted on all rows.

    Args:
        texts: what `features` are of, for a head that reads the words too where that helps on the held-out folds.

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
        nothing = np.zeros(0)
        head = _logistic(features, y, labels, strength)
        return Fit(head, strength, 0, 0, float("nan"), float("nan"), nothing, nothing.astype(bool))
    strength, logits = _choose_strength(features, y, folds, labels, recipe.strengths)
    words = None
    if texts is not None:
        counts = count_words(texts)
        odds = _held_out(
            y, folds, len(labels), lambda seen, new: fit_words(counts[seen], y[seen], len(labels)).logits(counts[new])
        )
        share, logits = add_words(logits, odds[judged], y[judged])
        words = fit_words(counts, y, len(labels)).at(share) if share else None
    temperature = fit_temperature(logits, y[judged])
    probabilities = softmax(logits / temperature)
    right = probabilities.argmax(axis=1) == y[judged]
    confidence = probabilities.max(axis=1)
    return Fit(
        replace(_logistic(features, y, labels, strength), temperature=temperature, words=words),
        strength,
        int(right.sum()),
        int(judged.sum()),
        log_loss(logits / temperature, y[judged]),
        calibration_error(confidence, right),
        confidence,
        right,
    )


def add_words(logits: Logits, words: Logits, y: Labels) -> tuple[float, Logits]:
    """The share of `words` with which `logits` have the least log loss once calibrated, and the two together; the least
    share where several are as good to a thousandth of a nat.

    Args:
        words: log odds of the same rows, by words that were not fitted on them.
    """
    scale = fit_temperature(logits, y, unseen=0)
    losses = {}
    for share in WORD_SHARES:
        together = logits + scale * share * words
        losses[share] = calibrated_loss(together, y)
    best = scale * next(share for share in WORD_SHARES if losses[share] <= min(losses.values()) + 1e-3)
    return best, logits + best * words


class Threshold(NamedTuple):
    below: float
    """Abstain where the confidence is lower."""
    abstains: float
    """Share of the rows."""
    precision: float
    """Share of the answered rows that are right."""


def threshold_for(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> Threshold | None:
    """The lowest threshold at which that share of the answers above it is right; None where none is."""
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Rows of equal confidence are answered together or not at all.
    ends = np.append(np.diff(confidence[order]) != 0, True)
    good = np.flatnonzero((hits >= precision) & ends) if len(order) else np.zeros(0, dtype=int)
    if not good.size:
        return None
    last = int(good[-1])
    return Threshold(float(confidence[order[last]]), 1 - (last + 1) / len(order), float(hits[last]))


def at_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], below: float) -> Threshold | None:
    """How often a given threshold abstains and is right; None where it would never answer."""
    kept = confidence >= below
    return Threshold(below, float(1 - kept.mean()), float(right[kept].mean())) if kept.any() else None


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


def fit_temperature(logits: Logits, y: Labels, unseen: float = 1.0) -> float:
    """The temperature with the least log loss (Guo 2017, temperature scaling), between 0.05 and 20.

    Args:
        unseen: rows, right for every label alike, that are counted in (as Platt 1999 does): that n rows were right does
            not make the next one certain, and without it a head that was always right would be sure of anything.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_t: float) -> float:
        likely = log_softmax(logits / np.exp(log_t), axis=1)
        n = len(y)
        return float(-(n * likely[np.arange(n), y].mean() + unseen * likely.mean()) / (n + unseen))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def calibrated_loss(logits: Logits, y: Labels) -> float:
    """Log loss at the temperature that suits these rows best: what candidates are compared by."""
    return log_loss(logits / fit_temperature(logits, y, unseen=0), y)


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


def sigmoid(logits: Logits) -> Logits:
    from scipy.special import expit

    return np.asarray(expit(logits))


def save_head(folder: Path, head: Head) -> None:
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {"weight": head.weight, "bias": head.bias}
    about: dict[str, Any] = {"labels": list(head.labels), "temperature": head.temperature, "task": head.task}
    if head.words is not None:
        tensors |= {f"words.{name}": getattr(head.words, name) for name in WORD_TENSORS}
        about["words"] = head.words.share
    save_file(tensors, folder / "head.safetensors")
    of_task: dict[str, dict[str, Any]]
    of_task = {"number": {"decimals": head.decimals}, "multi": {"separator": head.separator}}
    write_json(folder / "labels.json", about | of_task.get(head.task, {}))


def load_head_weights(folder: Path) -> Head:
    """Raises ArtifactError when the files are missing, damaged or do not belong together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = read_json(folder / "labels.json")
        tensors = load_file(folder / "head.safetensors")
        head = Head(
            tuple(about["labels"]),
            tensors["weight"],
            tensors["bias"],
            float(about["temperature"]),
            about.get("task", "single"),
            int(about.get("decimals", 0)),
            _words(tensors, float(about["words"])) if "words" in about else None,
            str(about.get("separator", ", ")),
        )
    except (FileNotFoundError, KeyError, TypeError, ValueError, SafetensorError) as exc:
        raise ArtifactError(f"{folder}: the head is damaged ({exc}); train it again with `tunefork tune`") from exc
    outputs = 1 if head.task == "number" else len(head.labels)
    if head.weight.shape[:1] != (outputs,) or head.bias.shape != (outputs,):
        raise ArtifactError(f"{folder}: labels.json names {len(head.labels)} labels, the weights {len(head.weight)}")
    if head.words is not None and head.words.weight.shape != (outputs, len(head.words.columns)):
        raise ArtifactError(f"{folder}: the words' weights are {head.words.weight.shape}, not one a label and word")
    return head


def _words(tensors: Mapping[str, NDArray[Any]], share: float) -> Words:
    columns, idf, weight = (tensors[f"words.{name}"] for name in WORD_TENSORS)
    return Words(columns, idf, weight, share)


def _choose_strength(
    features: Features, y: Labels, folds: NDArray[np.int64], labels: tuple[str, ...], strengths: Sequence[float]
) -> tuple[float, Logits]:
    """The strength with the least held-out log loss once calibrated, and the held-out logits of the judged rows at it.

    From the middle strength up while that helps, else down: the loss has one minimum.
    """
    judged = folds >= 0
    seen: dict[float, tuple[float, Logits]] = {}

    def judge(strength: float, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> Logits:
        return _logistic(features[train], y[train], labels, strength).logits(features[test])

    def loss(strength: float) -> float:
        if strength not in seen:
            logits = _held_out(y, folds, len(labels), partial(judge, strength))[judged]
            seen[strength] = calibrated_loss(logits, y[judged]), logits
        return seen[strength][0]

    best = climb(sorted(strengths), loss)
    loss(best)  # a single strength was compared with none
    return best, seen[best][1]


def climb(values: Sequence[float], loss: Callable[[float], float]) -> float:
    """The one of `values`, in rising order, with the least loss, where the loss has one minimum over them."""
    at = len(values) // 2
    for step in (1, -1):
        while 0 <= at + step < len(values) and loss(values[at + step]) < loss(values[at]):
            at += step
    return values[at]


def _held_out(
    y: Labels,
    folds: NDArray[np.int64],
    labels: int,
    judge: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Logits],
) -> Logits:
    """Logits of each row by what was fitted on the other folds; rows of fold -1 stay zero.

    Args:
        judge: fits on the rows of the first mask, and gives the logits of those of the second.
    """
    logits = np.zeros((len(y), labels))
    for fold in range(folds.max() + 1):
        test = folds == fold
        if test.any() and len(np.unique(y[~test])) > 1:
            logits[test] = judge(~test, test)
    return logits


def _logistic(features: Features, y: Labels, labels: tuple[str, ...], strength: float) -> Head:
    """The head fitted on rows that may lack some labels; those get the bias of an event never seen."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # That many labels have few rows is said by the report on the rows, in its own words.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than", category=UserWarning)
        model = LogisticRegression(C=strength, max_iter=2000).fit(features, y)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # Two classes are fitted as one logit z; softmax of (-z/2, z/2) is the same probability.
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((len(labels), features.shape[1]), dtype=np.float32)
    full_bias = np.full(len(labels), bias.min() - np.log(len(y) + 1.0), dtype=np.float32)
    full_weight[model.classes_], full_bias[model.classes_] = weight, bias
    return Head(labels, full_weight, full_bias)

"""A second, slower look at the best passages: a cross-encoder reads question and passage together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError
from core.files import read_json
from core.models import local_folder

BATCH = 16


class Reranker:
    """One cross-encoder in memory. Thread-safe; calls take turns."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load the sentence-transformers cross-encoder in `folder`, onto the GPU where there is one.

        Raises:
            ArtifactError: the folder holds no cross-encoder that gives one score.
        """
        from sentence_transformers import CrossEncoder
        from torch.nn import Sigmoid

        if not _scores_pairs(folder):
            # It would be loaded all the same, with a head of random numbers.
            raise ArtifactError(f"{folder}: {name!r} is no cross-encoder (its config names no sequence classifier)")
        self.name = name
        try:
            self._model: Any = CrossEncoder(str(folder), local_files_only=True, activation_fn=Sigmoid())
        except (OSError, ValueError, KeyError) as exc:
            raise ArtifactError(
                f"{folder}: {name!r} cannot be loaded as a cross-encoder ({str(exc).splitlines()[0]})"
            ) from exc
        if self._model.num_labels != 1:
            raise ArtifactError(
                f"{folder}: {name!r} gives {self._model.num_labels} scores a pair; a reranker gives one"
            )
        self._turn = threading.Lock()

    def scores(self, text: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """How well each passage answers `text`, 0..1 (the sigmoid of the model's logit)."""
        if not passages:
            return np.zeros(0, np.float32)
        with self._turn:
            scores = self._model.predict(
                [(text, passage) for passage in passages], batch_size=BATCH, show_progress_bar=False
            )
        return np.asarray(scores, np.float32)


def load_reranker(name: str, models: Path) -> Reranker:
    """The cross-encoder `name` (a folder or a hub id), loaded once a process.

    Raises:
        UnknownName, EngineUnavailable, ConfigError: as `core.models.local_folder`.
        ArtifactError: not a cross-encoder.
    """
    return _loaded(name, local_folder(name, models))


@lru_cache(maxsize=2)
def _loaded(name: str, folder: Path) -> Reranker:
    return Reranker(name, folder)


def _scores_pairs(folder: Path) -> bool:
    """Whether the files are those of a sequence classifier, or of a cross-encoder of another kind that says so."""
    own = folder / "config_sentence_transformers.json"
    if own.is_file() and read_json(own).get("model_type") == "CrossEncoder":
        return True
    config = folder / "config.json"
    kinds = read_json(config).get("architectures") or [] if config.is_file() else []
    return any(str(kind).endswith("ForSequenceClassification") for kind in kinds)

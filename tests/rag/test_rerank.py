"""A second look at the best passages: a real cross-encoder (tiny, made here) and the encoder's own tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.errors import ArtifactError, ConfigError
from core.search_settings import SearchSettings
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.late import LateInteraction, standing
from rag.open import open_retriever
from rag.rerank import Reranker
from rag.retrieve import Retriever

Indexed = tuple[UseCaseFolder, UseCase, Workspace]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """A sequence classifier of one layer with random weights: all of the real loading, none of the training."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross")
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def retriever(indexed: Indexed) -> Iterator[Retriever]:
    with open_retriever(*indexed) as opened:
        yield opened


def test_a_cross_encoder_gives_the_order_and_the_scores(retriever: Retriever, cross_encoder: Path) -> None:
    question = "Which canal leads to the Red Sea?"
    settings = SearchSettings(rerank_model=str(cross_encoder), rerank_depth=4)
    (found,) = retriever.search([question], 3, settings)
    (before,) = retriever.search([question], 4, SearchSettings())
    model = Reranker("tiny", cross_encoder)
    scores = model.scores(question, [f"{source.title}\n{source.text}" for source in before])
    order = np.argsort(-scores)
    assert [source.document_id for source in found] == [before[i].document_id for i in order[:3]]
    assert [source.score for source in found] == pytest.approx(scores[order[:3]].tolist(), abs=1e-5)
    assert [source.number for source in found] == [1, 2, 3]


def test_what_is_no_cross_encoder_is_refused(encoder_folder: Path, cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no cross-encoder"):
        Reranker("encoder", encoder_folder)
    two = tmp_path / "two"
    two.mkdir()
    for path in cross_encoder.iterdir():
        (two / path.name).write_bytes(path.read_bytes())
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(cross_encoder)
    config.num_labels = 2
    BertForSequenceClassification(config).save_pretrained(two)
    with pytest.raises(ArtifactError, match="gives 2 scores a pair"):
        Reranker("two", two)


def test_late_interaction_finds_what_is_asked_for_and_reads_a_passage_once(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = SearchSettings(rerank_model="late", rerank_depth=3)
    (found,) = retriever.search(["Who was first on the moon?"], 5, late)
    assert found[0].document_id == "moon"
    assert len(found) == 5
    assert [source.score for source in found] == sorted((source.score for source in found), reverse=True)
    read: list[int] = []
    encoder = retriever._encoder
    real = encoder.token_vectors  # type: ignore[attr-defined]
    monkeypatch.setattr(
        encoder, "token_vectors", lambda texts, query: read.append(len(texts) * (not query)) or real(texts, query=query)
    )
    assert retriever.search(["Who was first on the moon?"], 5, late) == [found]
    assert sum(read) == 0


def test_an_encoder_of_another_language_has_no_second_look(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "_foreign", True)
    questions = ["Who was first on the moon?", "Which canal leads to the Red Sea?"]
    late = SearchSettings(rerank_model="late", rerank_depth=5)
    assert retriever.search(questions, 5, late) == retriever.search(questions, 5, SearchSettings())


def test_late_interaction_by_hand() -> None:
    class Encoder:
        name = "hand"

        def token_vectors(self, texts: list[str], *, query: bool) -> list[np.ndarray]:
            known = {"q": [[1, 0], [0, 1]], "same": [[1, 0], [0, 1]], "half": [[1, 0]], "none": [[-1, 0]]}
            return [np.array(known[text], np.float32) for text in texts]

    scores = LateInteraction(Encoder()).scores("q", [0, 1, 2], ["same", "half", "none"])  # type: ignore[arg-type]
    assert scores.tolist() == [1.0, 0.5, -0.5]
    assert standing(scores).argmax() == 0
    assert standing(np.ones(3, np.float32)).tolist() == [0, 0, 0]


def test_an_encoder_without_tokens_says_so() -> None:
    class Remote:
        name = "text-embedding-3-small"

    with pytest.raises(ConfigError, match="'text-embedding-3-small' does not give"):
        LateInteraction(Remote())  # type: ignore[arg-type]


def test_the_settings_of_a_reranker_are_read_from_the_declaration(workspace: Workspace) -> None:
    folder, _ = workspace.declare("docs", {"retrieval": {"rerank_model": "late", "rerank_depth": 5}})
    assert folder.settings().retrieval == SearchSettings(rerank_model="late", rerank_depth=5)
    assert json.loads(folder.settings().retrieval.model_dump_json(exclude_defaults=True)) == {
        "rerank_model": "late",
        "rerank_depth": 5,
    }

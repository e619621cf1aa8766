"""The starter model behind the server: many clients at once get what each would get alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.engines.base import Engine
from core.workspace import Workspace
from serve.catalog import Catalog
from tests.serve.conftest import Server, declare, running

pytestmark = pytest.mark.usefixtures("starter_folder", "encoder_folder")

COUNTRIES = (
    *("France", "Italy", "Japan", "Egypt", "Spain", "Greece", "Norway", "Peru"),
    *("Kenya", "Cuba", "China", "India", "Chile", "Poland", "Turkey", "Canada"),
)
STARTER = "smollm2-135m-instruct"


@pytest.fixture
def exact(starter_folder: Path) -> Engine:
    """The starter in fp32, where batched and single answers are equal.

    In bf16 the batch's make-up moves logits by about 0.05, which turns near ties (the two best tokens after "La España
    de" are 0.03 apart).
    """
    import torch

    from core.engines.transformers import TransformersEngine

    return TransformersEngine(starter_folder, STARTER, dtype=torch.float32)


@pytest.fixture
def server(workspace: Workspace, tmp_path: Path, exact: Engine) -> Iterator[Server]:
    from rag.ingest import ingest

    declare(workspace, "geo", base_model=STARTER, max_tokens=12)
    declare(workspace, "codes", route="rag", base_model=STARTER, max_tokens=20, top_k=2)
    documents = tmp_path / "documents"
    documents.mkdir()
    for number, country in enumerate(COUNTRIES):
        text = f"The access code of the embassy of {country} is {1000 + 37 * number}."
        (documents / f"{country}.txt").write_text(text, encoding="utf-8")
    folder = workspace.use_case("codes")
    ingest(folder, folder.settings(), workspace, [documents])
    with running(Catalog(workspace, lambda _model: exact)) as server:
        yield server


def ask(server: Server, model: str, question: str, stream: bool = False) -> tuple[str, list[dict[str, Any]]]:
    messages: Any = [{"role": "user", "content": question}]
    answer = server.client(timeout=120).chat.completions.create(model=model, messages=messages, stream=stream)
    if not stream:
        message = answer.choices[0].message
        return str(message.content), list((message.model_extra or {}).get("sources", ()))
    text, sources = "", []
    for chunk in answer:
        text += chunk.choices[0].delta.content or ""
        sources = (chunk.choices[0].delta.model_extra or {}).get("sources", sources)
    return text, sources


@pytest.mark.slow
def test_sixteen_clients_get_right_unmixed_answers(server: Server) -> None:
    questions = [("geo", f"What is the capital of {c}?") for c in COUNTRIES[:8]]
    questions += [("codes", f"What is the access code of the embassy of {c}?") for c in COUNTRIES[:8]]
    alone = [ask(server, *question) for question in questions]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda q: ask(server, *q), questions))
        streamed = list(pool.map(lambda q: ask(server, *q, stream=True), questions))
    assert together == alone
    assert streamed == alone
    assert "Paris" in together[0][0]
    for (model, question), (text, sources) in zip(questions, together, strict=True):
        country = question.removesuffix("?").split()[-1]
        if model == "geo":
            assert sources == []
            continue
        assert country in sources[0]["text"], "its own passages, not those of another client"
        assert sources[0]["number"] == 1
        code = sources[0]["text"].rstrip(".").split()[-1]
        assert code in text, f"{question} -> {text}"


LABELS = {
    "card_arrival": ("Where is my new card?", "My card has not come yet.", "When will the card be here?"),
    "exchange_rate": ("What is the exchange rate?", "The rate you applied is wrong.", "How are rates set?"),
}


def labelled_rows(workspace: Workspace, folder: Path) -> Any:
    from core.rows import read_rows

    path = folder / "train.jsonl"
    rows = [{"input": text, "output": label} for label, texts in LABELS.items() for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_rows(path, "train")


@pytest.mark.slow
def test_head_and_adapter_answer_under_the_use_cases_names(workspace: Workspace, tmp_path: Path, exact: Engine) -> None:
    from tuning.recipe import HeadRecipe, LoraRecipe
    from tuning.train import train_head, train_lora

    declare(workspace, "intents", base_model=STARTER, max_tokens=8)
    folder, rows = workspace.use_case("intents"), labelled_rows(workspace, tmp_path)
    with folder.adapters.build() as staging:
        train_head(staging, folder.settings(), workspace, rows, HeadRecipe(folds=2))
    with folder.adapters.build() as staging:
        recipe = LoraRecipe(epochs=8, learning_rate=3e-3, batch_rows=6)
        train_lora(staging, folder.settings(), workspace, rows, recipe)
    folder.adapters.activate("v0002")
    declare(workspace, "intents", "tune", base_model=STARTER, max_tokens=8, method="head", adapter_version="v0001")
    question = "Where is my new card?"
    with running(Catalog(workspace, lambda _model: exact)) as server:
        with ThreadPoolExecutor(8) as pool:
            names = ["intents", "intents:tune", "intents:base", STARTER] * 2
            answers = list(pool.map(lambda name: ask(server, name, question)[0], names))
        assert answers[:4] == answers[4:]
        assert answers[0] == "card_arrival", "the head of the remedy"
        assert answers[1] == "card_arrival", "the LoRA adapter in force"
        assert "card_arrival" not in answers[2]
        assert answers[3].startswith(answers[2]), "rows of the base in the same batch stay the base's"

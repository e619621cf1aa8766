"""Embeddings through the official client, on the starter encoder."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from core.workspace import Workspace
from tests.serve.conftest import Server, declare

pytestmark = pytest.mark.usefixtures("encoder_folder")
MODEL = "all-minilm-l6-v2"
Serve = Callable[..., Server]


@pytest.fixture
def server(serve: Serve, workspace: Workspace) -> Server:
    declare(workspace, "faq")
    return serve()


def post(server: Server, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": "a cat", **fields}, timeout=60)


def test_vectors_are_those_of_the_encoder(server: Server, workspace: Workspace) -> None:
    from rag.embedding import load_encoder

    texts = ["a cat sleeps", "a kitten naps", "the stock market fell"]
    answer = server.client().embeddings.create(model=MODEL, input=texts, encoding_format="float")
    made = np.array([item.embedding for item in answer.data])
    assert made.shape == (3, 384)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert np.allclose(made, load_encoder(MODEL, workspace.models).passages(texts), atol=0.01)
    assert made[0] @ made[1] > made[0] @ made[2] + 0.2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3 * 2 + 11


def test_base64_holds_the_same_numbers(server: Server) -> None:
    floats = post(server, encoding_format="float").json()["data"][0]["embedding"]
    packed = post(server, encoding_format="base64").json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(packed), "<f4"), floats, atol=1e-6)
    # The client's own default is base64, which it unpacks (and its strict validation refuses).
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model=MODEL, input="a cat")
    assert np.allclose(answer.data[0].embedding, floats, atol=1e-6)


def test_token_ids_are_those_of_the_model(server: Server) -> None:
    ids = [1037, 4937]  # "a cat" in BERT's vocabulary
    text = post(server).json()["data"][0]["embedding"]
    for given in (ids, [ids]):
        assert np.allclose(post(server, input=given).json()["data"][0]["embedding"], text, atol=1e-6)


def test_embedding_models_are_listed(server: Server) -> None:
    client = server.client()
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"input": ""}, 400, "input", "invalid_value"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": ["a", 3]}, 400, "input", "invalid_value"),
        ({"input": [999_999]}, 400, "input", "invalid_value"),
        ({"input": ["a", "word " * 600]}, 400, "input[1]", "context_length_exceeded"),
        ({"dimensions": 128}, 400, "dimensions", "unsupported_value"),
        ({"dimensions": 385}, 400, "dimensions", "invalid_value"),
        ({"dimensions": 0}, 400, "dimensions", "invalid_value"),
        ({"encoding_format": "int8"}, 400, "encoding_format", "unsupported_value"),
        ({"model": "echo"}, 404, "model", "model_not_found"),
        ({"truncate": True}, 400, "truncate", "unknown_parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    server: Server, fields: dict[str, Any], status: int, param: str, code: str
) -> None:
    response = post(server, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error


def test_own_dimensions_are_accepted(server: Server) -> None:
    assert len(post(server, dimensions=384).json()["data"][0]["embedding"]) == 384

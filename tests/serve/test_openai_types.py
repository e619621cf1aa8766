"""What the official client's types say there is, taken or refused by name: no field of OpenAI's is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import (
    EmbeddingCreateParams,
    VectorStoreCreateParams,
    VectorStoreSearchParams,
    VectorStoreUpdateParams,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParams
from openai.types.fine_tuning import JobCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams
from openai.types.vector_stores import FileBatchCreateParams, FileCreateParams

from core.workspace import Workspace
from tests.serve.conftest import Server, declare

Serve = Callable[..., Server]
ASK = [{"role": "user", "content": "one two"}]
NO_EFFECT = {"prompt_cache_options"}
"""Taken whatever they hold, as docs/serving.md says."""

NONSENSE = {"unlikely": [1]}

BODIES: dict[str, tuple[type, dict[str, Any]]] = {
    "chat/completions": (ChatParams, {"model": "faq", "messages": ASK}),
    "completions": (TextParams, {"model": "faq", "prompt": "one two"}),
    "responses": (ResponseParams, {"model": "faq", "input": "one two"}),
    "embeddings": (EmbeddingCreateParams, {"model": "all-minilm-l6-v2", "input": "a"}),
    "vector_stores": (VectorStoreCreateParams, {"name": "s"}),
    "vector_stores/STORE": (VectorStoreUpdateParams, {}),
    "vector_stores/STORE/search": (VectorStoreSearchParams, {"query": "a"}),
    "vector_stores/STORE/files": (FileCreateParams, {"file_id": "file-x"}),
    "vector_stores/STORE/file_batches": (FileBatchCreateParams, {"file_ids": ["file-x"]}),
    "fine_tuning/jobs": (JobCreateParams, {"model": "faq", "training_file": "file-x"}),
}
"""By path: the client's parameters, and a body that is right."""


@pytest.mark.parametrize("path", BODIES)
def test_every_field_of_the_client_is_looked_at(serve: Serve, workspace: Workspace, path: str) -> None:
    declare(workspace, "faq")
    server = serve()
    store = server.client().vector_stores.create(name="s").id
    params, body = BODIES[path]
    taken = []
    for name in get_type_hints(params):
        if name in ("store_id", "vector_store_id", "file_id") and name not in body:
            continue  # stands in the path
        answer = httpx.post(f"{server.url}/v1/{path.replace('STORE', store)}", json={**body, name: NONSENSE})
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert (error["param"] or "").partition(".")[0].partition("[")[0] == name, (name, error)
            assert error["code"]
        else:
            taken.append((name, answer.status_code))
    assert {name for name, _ in taken} <= NO_EFFECT

"""LangChain's own suite for chat models and embeddings, through ChatOpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip(
    "langchain_tests", reason="`make test-clients` installs the clients into an environment of their own"
)

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests


class TestChat(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _at(self, url: str) -> None:
        self.url = url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "assistant", "base_url": f"{self.url}/v1", "api_key": "none", "stream_usage": True}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestResponses(TestChat):
    """The same suite over /v1/responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _at(self, url: str) -> None:
        self.url = url

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        # It would count, and send, tokens of OpenAI's own vocabulary.
        own = {"check_embedding_ctx_length": False}
        return {"model": "all-minilm-l6-v2", "base_url": f"{self.url}/v1", "api_key": "none", **own}

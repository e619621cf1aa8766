"""LlamaIndex's OpenAILike, chat, stream, functions and embeddings."""

from __future__ import annotations

import pytest

pytest.importorskip(
    "llama_index.llms.openai_like", reason="`make test-clients` installs the clients into an environment of their own"
)

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike


@pytest.fixture
def llm(url: str) -> OpenAILike:
    options = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 8192}
    return OpenAILike(model="assistant", api_base=f"{url}/v1", api_key="none", **options)


def test_chat(llm: OpenAILike) -> None:
    assert str(llm.chat([ChatMessage(role="user", content="Hi.")]).message.content).startswith("Hello!")


def test_stream(llm: OpenAILike) -> None:
    pieces = [piece.delta for piece in llm.stream_chat([ChatMessage(role="user", content="Hi.")])]
    assert "".join(piece or "" for piece in pieces).startswith("Hello!")
    assert len(pieces) > 5


def test_functions(llm: OpenAILike) -> None:
    def weather(city: str) -> str:
        """Weather of a city."""
        return "rain"

    tools = [FunctionTool.from_defaults(fn=weather)]
    response = llm.chat_with_tools(tools, user_msg="Weather in 'Oslo'?")
    (call,) = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Oslo"})


def test_completion_of_a_base_model(url: str) -> None:
    llm = OpenAILike(model="echo", api_base=f"{url}/v1", api_key="none", is_chat_model=False, context_window=8192)
    assert llm.complete("Once upon").text.startswith("Hello!")


def test_embeddings(url: str) -> None:
    model = OpenAILikeEmbedding(model_name="all-minilm-l6-v2", api_base=f"{url}/v1", api_key="none")
    assert len(model.get_text_embedding("a cat")) == 384

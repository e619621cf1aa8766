"""Ask a served name as a client would: by the catalog in this process, or at a running server. Used by `tunefork chat`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from core.errors import ConfigError, EngineError, EngineUnavailable
from core.types import Message, Request, Sampling

if TYPE_CHECKING:
    from serve.catalog import Catalog


class Turn(NamedTuple):
    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Answer:
    """A whole answer; it comes after its pieces of text."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    sources: tuple[dict[str, Any], ...] = ()

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "answer": self.text,
            "finish_reason": self.finish_reason,
            "usage": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
            "sources": list(self.sources),
        }


Ask = Callable[[Sequence[Turn]], Iterator[str | Answer]]
"""Pieces of text as they come, then the Answer."""


def in_process(catalog: Catalog, name: str, max_tokens: int | None) -> Ask:
    """Asks `name` of `catalog`. Raises UnknownModel at once when there is no such name."""
    catalog.entry(name)

    def ask(turns: Sequence[Turn]) -> Iterator[str | Answer]:
        with catalog.lease(name) as served:
            messages = tuple(Message(turn.role, turn.content) for turn in turns)
            request = Request(messages, Sampling(max_tokens=max_tokens or served.max_tokens))
            for delta in served.engine.stream(request):
                if delta.text:
                    yield delta.text
                if (end := delta.completion) is not None:
                    sources = tuple(asdict(source) for source in end.sources)
                    yield Answer(
                        end.text, end.finish_reason, end.usage.prompt_tokens, end.usage.completion_tokens, sources
                    )

    return ask


def at_server(url: str, api_key: str | None, name: str, max_tokens: int | None) -> Ask:
    """Asks `name` of the server at `url`."""
    import openai

    def ask(turns: Sequence[Turn]) -> Iterator[str | Answer]:
        messages: Any = [{"role": turn.role, "content": turn.content} for turn in turns]
        options: Any = {} if max_tokens is None else {"max_tokens": max_tokens}
        try:
            with openai.OpenAI(base_url=url, api_key=api_key or "none", max_retries=1) as client:
                chunks = client.chat.completions.create(
                    model=name, messages=messages, stream=True, stream_options={"include_usage": True}, **options
                )
                yield from _pieces(chunks)
        except openai.NotFoundError as exc:
            if isinstance(exc.body, dict) and exc.code == "model_not_found":
                raise ConfigError(str(exc.body["message"])) from exc
            raise ConfigError(f"{url} is not an OpenAI-compatible URL (404); it mostly ends in /v1") from exc
        except openai.APIConnectionError as exc:
            raise EngineUnavailable(f"no server answers at {url}; start one with `tunefork serve`") from exc
        except openai.AuthenticationError as exc:
            raise ConfigError(f"{url} wants an API key; give --api-key or TUNEFORK_API_KEY") from exc
        except openai.APIError as exc:
            raise EngineError(f"{url}: {exc.message}") from exc

    return ask


def _pieces(chunks: Any) -> Iterator[str | Answer]:
    text, finish_reason, sources, usage = "", "", (), None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish_reason = choice.finish_reason or finish_reason
            sources = tuple((choice.delta.model_extra or {}).get("sources") or sources)
            if choice.delta.content:
                text += choice.delta.content
                yield choice.delta.content
    if not finish_reason:
        raise EngineError("the server ended the answer before its end")
    prompt, answer = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    yield Answer(text, finish_reason, prompt, answer, sources)

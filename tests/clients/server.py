"""A server for other people's clients: a scripted model that can call functions, under every model's name.

.venv/bin/python -m tests.clients.server        # prints its URL, and serves until its standard input ends
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.engines.scripted import ScriptedEngine
from core.types import ANY_OBJECT, Request
from core.workspace import Workspace
from rag.embedding import load_encoder
from serve.catalog import Catalog
from tests.conftest import MODELS
from tests.serve.conftest import declare, running

NAME = "assistant"


def answer(request: Request) -> str:
    """Follows a schema, calls the first function where there are any and no result is there yet, else talks."""
    question = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
    quoted = re.search(r"'([^']+)'|\"([^\"]+)\"|: *(\w+)", question)
    text = next((group for group in quoted.groups() if group), "a") if quoted else "a"
    if request.sampling.json_schema == ANY_OBJECT:
        # The keys that the question names.
        return json.dumps(dict.fromkeys(re.findall(r"[`'\"](\w+)[`'\"]", question) or ["key"], text))
    if request.sampling.json_schema is not None:
        return json.dumps(sample(json.loads(request.sampling.json_schema), text), ensure_ascii=False)
    if request.tools and request.messages[-1].role == "user":
        tool = request.tools[0]
        call = {"name": tool.name, "arguments": sample(json.loads(tool.parameters), text)}
        return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"
    return "Hello! This is an answer of a few words, and it ends here."


def sample(schema: dict[str, Any], text: str, root: dict[str, Any] | None = None) -> Any:
    """A value that follows `schema`: strings are `text`, integers 3."""
    root = schema if root is None else root
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return sample((root.get("$defs") or root.get("definitions"))[name], text, root)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(schema[key][0], text, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {key: sample(value, text, root) for key, value in schema.get("properties", {}).items()}
    values: dict[str, Any] = {"string": text, "integer": 3, "number": 3.0, "boolean": True, "array": [], "null": None}
    return values[kind]


def _name_models(document: dict[str, Any]) -> None:
    """Write into the served document which models there are: generated requests must get further than 404."""
    served = {"ChatRequest": [NAME, "echo"], "CompletionRequest": [NAME, "echo"], "ResponseRequest": [NAME, "echo"]}
    for schema, names in (served | {"EmbeddingRequest": ["all-minilm-l6-v2"]}).items():
        document["components"]["schemas"][schema]["properties"]["model"] = {"type": "string", "enum": names}


@contextmanager
def serving() -> Iterator[str]:
    """Address of a running server, without /v1."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        MODELS.mkdir(parents=True, exist_ok=True)
        (home / "models").symlink_to(MODELS)
        workspace = Workspace(home)
        declare(workspace, NAME)
        # Loading it takes seconds, which no request should be seen to take.
        load_encoder("all-minilm-l6-v2", workspace.models)
        with running(Catalog(workspace, lambda model: ScriptedEngine(answer, name=model))) as server:
            _name_models(server.app.openapi())
            yield server.url


def main() -> None:
    with serving() as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

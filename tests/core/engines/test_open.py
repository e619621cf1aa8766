"""From a name to an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engines.open import default_engine, open_engine
from core.engines.remote import RemoteEngine
from core.errors import ConfigError, EngineUnavailable, MissingExtra, UnknownName
from core.types import Completion, Message, Request, Sampling
from core.workspace import Workspace


def test_a_starter_is_answered_in_process(workspace: Workspace, starter_folder: Path) -> None:
    engine = open_engine("HuggingFaceTB/SmolLM2-135M-Instruct", workspace)
    try:
        assert engine.model == "smollm2-135m-instruct"
        assert engine.context_window == 8192
        (result,) = engine.complete([Request((Message("user", "Hi."),), Sampling(max_tokens=2))])
        assert isinstance(result, Completion)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("model", "engine", "name"),
    [
        ("gpt-x@http://127.0.0.1:9/v1", "auto", "gpt-x@http://127.0.0.1:9/v1"),
        ("gpt-x", "http://127.0.0.1:9/v1", "gpt-x"),
    ],
)
def test_a_url_is_a_remote_engine(workspace: Workspace, model: str, engine: str, name: str) -> None:
    opened = open_engine(model, workspace, engine)
    assert isinstance(opened, RemoteEngine)
    assert opened.model == name
    opened.close()


def test_an_unknown_engine_lists_the_known(workspace: Workspace) -> None:
    with pytest.raises(UnknownName, match="did you mean transformers"):
        open_engine("smollm2-135m-instruct", workspace, "transfomers")


def test_an_unknown_model_lists_near_names(workspace: Workspace) -> None:
    with pytest.raises(UnknownName, match="smollm2-135m-instruct"):
        open_engine("smollm2-135m-instrct", workspace)


@pytest.mark.parametrize("engine", ["transformers", "vllm", "http://127.0.0.1:9"])
def test_a_remote_model_takes_no_other_engine(workspace: Workspace, engine: str) -> None:
    with pytest.raises(ConfigError):
        open_engine("gpt-x@http://127.0.0.1:9/v1", workspace, engine)


def test_vllm_that_is_not_installed_names_the_extra(
    workspace: Workspace, starter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import core.engines.vllm as module

    monkeypatch.delenv("TUNEFORK_VLLM_PYTHON", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'tunefork\[vllm\]'"):
        open_engine("smollm2-135m-instruct", workspace, "vllm")


def test_a_vllm_python_that_is_not_there_is_named(
    workspace: Workspace, starter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEFORK_VLLM_PYTHON", "/no/such/python")
    with pytest.raises(EngineUnavailable, match="/no/such/python"):
        open_engine("smollm2-135m-instruct", workspace, "vllm")


def test_gguf_file_is_answered_by_llama_cpp_where_it_is_installed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import core.engines.llamacpp as module

    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(module, "installed", lambda: True)
    assert default_engine(str(file), workspace) == "llamacpp"
    assert "tiny.gguf is answered by llama.cpp" in capsys.readouterr().err
    monkeypatch.setattr(module, "installed", lambda: False)
    assert default_engine(str(file), workspace) == "transformers"
    assert "tunefork[llamacpp]" in capsys.readouterr().err
    assert default_engine("smollm2-135m-instruct", workspace) == "transformers", "measured and tuned on its weights"


def test_llamacpp_needs_a_gguf_file(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a GGUF file"):
        open_engine(str(tmp_path), workspace, "llamacpp")


def test_file_that_is_no_gguf_is_said(workspace: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"nothing")
    with pytest.raises(EngineUnavailable, match=r"broken\.gguf: not a GGUF file"):
        open_engine(str(file), workspace, "llamacpp")

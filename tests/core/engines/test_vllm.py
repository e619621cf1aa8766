"""vLLM as a child: adapters, crashes, and an end with its parent. Skipped where vLLM is not installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engines.vllm import RANKS, VllmEngine, python_with_vllm, servable_rank
from core.errors import EngineError, EngineUnavailable, MissingExtra
from core.types import Completion, Message, Request, Sampling
from tests.core.engines.tiny import tiny_adapter


@pytest.mark.parametrize(("largest", "served"), [(0, 0), (1, 1), (4, 8), (16, 16), (17, 32), (129, 256), (400, 512)])
def test_the_rank_vllm_is_started_for_is_the_next_it_knows(largest: int, served: int) -> None:
    assert servable_rank(largest) == served
    assert served in (0, *RANKS)


@pytest.fixture
def engine(starter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    try:
        python_with_vllm()
    except MissingExtra:
        pytest.skip("vllm is not installed (TUNEFORK_VLLM_PYTHON may name an environment that has it)")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    made = VllmEngine(starter_folder, "smollm2-135m-instruct", tmp_path / "logs", compiled=False)
    yield made
    made.close()


def _ask(adapter: Path | None = None) -> Request:
    return Request(
        (Message("user", "Tell me about cats."),), Sampling(max_tokens=8), None if adapter is None else str(adapter)
    )


@pytest.mark.slow
def test_an_adapter_answers_beside_the_base_and_after_a_crash(
    engine: VllmEngine, starter_folder: Path, tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", starter_folder, lora_alpha=8)
    broken = tmp_path / "nowhere"
    base, adapted, missing = engine.complete([_ask(), _ask(adapter), _ask(broken)])
    assert isinstance(base, Completion)
    assert isinstance(adapted, Completion)
    assert base.text != adapted.text
    assert isinstance(missing, EngineError)
    assert "no adapter there" in str(missing)

    assert engine._server is not None
    os.killpg(engine._server._process.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match=r"crashed|cannot be reached"):
        for _ in range(2):
            engine.complete([_ask()])
            time.sleep(0.1)
    (again,) = engine.complete([_ask(adapter)])
    assert isinstance(again, Completion)
    assert again.text == adapted.text


@pytest.mark.slow
def test_a_server_that_cannot_start_says_its_last_line(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_dtype", "float7")
    with pytest.raises(EngineUnavailable, match="ended while starting: .*float7"):
        engine.start()


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The launcher alone, with a stand-in for vLLM that would run for ever."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").write_text("")
    pid_file = tmp_path / "pid"
    (package / "api_server.py").write_text(
        f"import os, time, pathlib\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    launcher = Path(sys.modules[VllmEngine.__module__].__file__ or "").with_name("vllm_child.py")
    script = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(launcher)!r}], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as parent:
        deadline = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int(pid_file.read_text())
        parent.kill()
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody reaps (no init in a container) is dead all the same.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"

"""`tunefork serve` as a process: ports, locks, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.errors import ConfigError
from core.workspace import Workspace
from serve.server import check_exposure, is_loopback, listen, url_of
from tests.serve.conftest import declare, wait_until


def test_listening_twice_on_one_port_is_one_clear_line() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)


def test_address_that_is_not_ours_is_a_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True)])
def test_loopback_needs_no_key(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(host, [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="TUNEFORK_API_KEYS"):
        check_exposure(host, [])
    check_exposure(host, ["k"])


def tunefork(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_unknown_engine_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    ended = tunefork("serve", "--port", "0", "--engine", "nonsense", env={**os.environ, "TUNEFORK_HOME": str(tmp_path)})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "unknown engine 'nonsense'" in ended.stderr


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A `tunefork serve` process and what it printed when ready."""
    command = [sys.executable, "-m", "core.cli", "serve", "--port", "0", "--json", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def test_port_in_use_exits_2_before_anything_is_loaded(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tunefork("serve", "--port", str(port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr


def test_open_address_without_a_key_exits_2(home: Path) -> None:
    done = tunefork("serve", "--host", "0.0.0.0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_model_that_cannot_be_opened_exits_2_with_its_reason(workspace: Workspace) -> None:
    declare(workspace, "faq", base_model="smolm2-135m-instruct")
    done = tunefork("serve", "--port", "0", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder")
def test_second_server_on_a_workspace_is_told_who_has_it(home: Path) -> None:
    with serving() as (process, ready):
        assert ready["pid"] == process.pid
        done = tunefork("serve", "--port", "0")
        assert done.returncode == 2
        assert f"pid {process.pid}" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_the_answer_in_progress_end_and_exits_0(home: Path, number: int) -> None:
    with serving("--grace", "120") as (process, ready):
        body = {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Count from one to forty in words."}],
            "max_tokens": 60,
            "stream": True,
        }
        with httpx.stream("POST", f"{ready['url']}/chat/completions", json=body, timeout=300) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(process.pid, number)
            rest = list(lines)
        assert "data: [DONE]" in rest
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
        assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder")
def test_grace_time_over_cuts_answers_off_and_exits_0(home: Path) -> None:
    with serving("--grace", "1") as (process, ready):
        body = {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Write a very long story."}],
            "max_tokens": 4000,
            # It may not end by itself: neither of the model's two last tokens can be chosen.
            "logit_bias": {"0": -100, "2": -100},
        }
        got: list[httpx.Response] = []
        asked = threading.Thread(
            target=lambda: got.append(httpx.post(f"{ready['url']}/chat/completions", json=body, timeout=300))
        )
        asked.start()
        busy = ready["url"].removesuffix("/v1") + "/ready"
        wait_until(lambda: httpx.get(busy).json()["busy"] == 1)
        process.terminate()
        _, log = process.communicate(timeout=300)
        asked.join(300)
        assert process.returncode == 0, log
        assert "Traceback" not in log
        assert (got[0].status_code, got[0].json()["error"]["code"]) == (503, "stopping")

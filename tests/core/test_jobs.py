"""status.json tells the truth about a job, also after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.files import read_json
from core.jobs import job, state


def test_a_job_that_ends_is_done_and_keeps_its_config(tmp_path: Path) -> None:
    with job(tmp_path, {"seed": 1}):
        assert state(tmp_path) == "running"
    assert state(tmp_path) == "done"
    assert read_json(tmp_path / "config.json") == {"seed": 1}


@pytest.mark.parametrize(("error", "became"), [(ValueError("bad\nrow"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_a_job_that_breaks_says_why(tmp_path: Path, error: BaseException, became: str) -> None:
    with pytest.raises(type(error)), job(tmp_path, {}):
        raise error
    assert state(tmp_path) == became
    assert "\n" not in read_json(tmp_path / "status.json")["reason"]


def test_a_killed_job_is_not_running_for_ever(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from core.jobs import job\n"
        "with job(Path(sys.argv[1]), {}): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert state(tmp_path) == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state(tmp_path) == "killed"

"""README's commands are tests: its block on your own data is run as it stands, on a few rows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from core.cli import COMMANDS
from tests.conftest import MODELS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"


def block(heading: str) -> str:
    """The first console block under `heading`."""
    found = re.search(rf"## {heading}.*?```console\n(.*?)```", README, re.S)
    assert found is not None, f"README has no console block under {heading!r}"
    return found[1]


def first_rows(source: str, target: Path, n: int) -> None:
    lines = (EXAMPLES / source).read_text(encoding="utf-8").split("\n")[:n]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder", "encoder_folder")
def test_the_commands_on_your_own_data_work_as_written(tmp_path: Path, reserved_port: int) -> None:
    first_rows("xquad/eval.jsonl", tmp_path / "eval.jsonl", 4)
    rows = [json.loads(line) for line in (EXAMPLES / "xquad" / "held_out.jsonl").read_text().split("\n")[:12]]
    train = [{"input": row["question"], "output": row["answers"][0]} for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (tmp_path / "manual").mkdir()
    first_rows("xquad/corpus.jsonl", tmp_path / "manual" / "corpus.jsonl", 12)
    (tmp_path / ".tunefork").mkdir()
    (tmp_path / ".tunefork" / "models").symlink_to(MODELS)

    port = reserved_port
    script = (
        block("Your own data, in five lines").replace("8000", str(port)).replace("serve &", f"serve --port {port} &")
    )
    commands = [line for line in script.replace("\\\n", " ").split("\n") if line.strip()]
    advise, build, serve, curl = (line.split("#")[0] if "curl" not in line else line for line in commands)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("TUNEFORK_HOME", None)

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "report:" in run(advise)
    assert "built faq" in run(build)
    server = subprocess.Popen(["/bin/sh", "-c", "exec " + serve.replace("&", "")], cwd=tmp_path, env=environment)
    try:
        wait_until_ready(server, f"http://127.0.0.1:{port}/ready")
        answer = json.loads(run(curl))
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"]["content"]
    finally:
        server.terminate()
        assert server.wait(300) == 0


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60):
                return
        except OSError:
            assert server.poll() is None, "the server has ended"
            time.sleep(0.2)


def test_every_command_is_in_the_readme() -> None:
    for command in COMMANDS:
        assert re.search(rf"`(?:tunefork )?{command}\b", README), f"README does not mention {command}"


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), EXAMPLES / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"

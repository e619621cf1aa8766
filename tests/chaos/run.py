"""kill -9 at random moments under load, fifty times: nothing that was acknowledged is lost, and no hand is needed.

    .venv/bin/python -m tests.chaos.run [--kills 50] [--vllm-kills 6] [--seed N]

Clients chat, upload, fill vector stores, train and judge without a pause. What dies, and when, is drawn by the seed: the
server, an ingest's or a training's process, or the server with one of them; and, where TUNEFORK_VLLM_PYTHON names an
environment that has vLLM, a vLLM child or the server over it. After each death of the server the next one is asked for
everything that was acknowledged. In the end all work must come to its end by itself, and be right: contents, passages,
adapters, judgements, and no process and no half-made folder left. Exit code 1 when anything is not.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.workspace import Workspace
from tests.chaos.ledger import USE_CASE, Ledger, check, check_disk, check_indexes, client_of, settled
from tests.chaos.load import Load
from tests.chaos.processes import ServerProcess, jobs_at_work, kill, processes_of, vllm_of, wait_for
from tests.conftest import MODELS
from tests.serve.conftest import declare
from tests.serve.test_fine_tuning import BASE

KILLS_A_JOB = 2
"""A job that is killed three times is given up, with a reason; this many times it must get over."""

Say = Callable[[str], None]
VICTIMS = {"server": 4, "ingest": 3, "tuning": 3, "server+ingest": 1, "server+tuning": 1}
"""How often each is drawn."""

JOBS = {"ingest": "vsjob_", "tuning": "ftjob-"}


class Chaos:
    """One run over a workspace of its own."""

    def __init__(self, home: Path, seed: int, say: Say) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.seed = seed
        self.ledger = Ledger()
        self.killed: Counter[str] = Counter()
        self._say = say
        self._started = time.monotonic()
        self._kills_of: Counter[str] = Counter()
        home.mkdir()
        MODELS.mkdir(parents=True, exist_ok=True)
        (home / "models").symlink_to(MODELS)
        declare(Workspace(home), USE_CASE, base_model=BASE)

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._started:6.1f} s  {text}")

    def scripted(
        self, victims: Sequence[str], *, trainings: int, pause_s: float = 8.0, patience_s: float = 10.0
    ) -> None:
        """Kill while scripted answers are given, then let everything end and look at it.

        Args:
            victims: who dies, in this order: server, ingest, tuning, server+ingest, server+tuning.
            trainings: fine-tuning jobs in all.
            pause_s: longest time between two deaths.
            patience_s: how long to wait for a job to kill, before the server dies in its place.
        """
        server = ServerProcess(self.home)
        server.start()
        work = ["chat", "chat", "upload", "batch", "respond", *(["train"] if trainings else [])]
        load = Load(server, self.ledger, self.seed, work=work, models=[USE_CASE], trainings=trainings)
        load.start()
        try:
            for number, victim in enumerate(victims, start=1):
                time.sleep(self.rng.uniform(0, pause_s))
                self._kill(server, victim, number, patience_s)
        finally:
            load.stop()
        self.say("no more deaths; the work that is left must end by itself")
        assert server.url is not None
        url = server.url
        wait_for(lambda: settled(url), "jobs or stores are not done", 1800)
        check(self.ledger, server.url, self.rng, whole=True)
        check_indexes(self.ledger, server.url)
        server.stop()
        self._nobody_left()
        check_disk(self.ledger, self.home)
        self.say(f"all looked at; {self.ledger.counts()}")

    def _kill(self, server: ServerProcess, victim: str, number: int, patience_s: float) -> None:
        done = []
        for one in victim.split("+"):
            if one == "server":
                server.kill()
                done.append("server")
            elif (job := self._kill_job(JOBS[one], patience_s)) is not None:
                done.append(job)
        if not done:
            # Nothing of that kind is at work: the server always is.
            server.kill()
            done = ["server"]
        for one in done:
            self.killed[one if one == "server" else "ingest" if one.startswith("vsjob") else "tuning"] += 1
        self.say(f"{number:2}. killed {' and '.join(done)}; {self.ledger.counts()}")
        if "server" in done:
            server.start()
            assert server.url is not None
            check(self.ledger, server.url, self.rng)

    def _kill_job(self, prefix: str, patience_s: float) -> str | None:
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            for job, pid in jobs_at_work(self.home, prefix).items():
                if self._kills_of[job] < KILLS_A_JOB and kill(pid):
                    self._kills_of[job] += 1
                    return job
            time.sleep(0.05)
        return None

    def vllm(self, kills: int) -> None:
        """Kill vLLM children, and once the server over them, while they answer with the base model and an adapter."""
        server = ServerProcess(self.home, "vllm")
        server.start()
        models = [USE_CASE, *list(self.ledger.models.values())[:1]]
        load = Load(server, self.ledger, self.seed + 1, work=("chat", "chat", "upload", "respond"), models=models)
        load.start()
        try:
            for number in range(1, kills + 1):
                self._answers(server, models)
                time.sleep(self.rng.uniform(0, 3))
                if number == kills // 2:
                    server.kill()
                    self.killed["server"] += 1
                    self.say(f"{number:2}. killed the server over vLLM; {self.ledger.counts()}")
                    server.start()
                    assert server.url is not None
                    check(self.ledger, server.url, self.rng)
                    continue
                victim = self.rng.choice(vllm_of(self.home))
                if kill(victim.pid):
                    self.killed["vllm"] += 1
                self.say(f"{number:2}. killed {victim.command[:60]!r}; {self.ledger.counts()}")
            self._answers(server, models)
        finally:
            load.stop()
        server.stop()
        self._nobody_left()
        check_disk(self.ledger, self.home)

    def _answers(self, server: ServerProcess, models: list[str]) -> None:
        """Wait until every model answers (again)."""
        import openai

        def one(model: str) -> bool:
            messages: Any = [{"role": "user", "content": "Say something."}]
            try:
                with client_of(str(server.url)) as client:
                    return bool(client.chat.completions.create(model=model, messages=messages, max_tokens=8).choices)
            except openai.InternalServerError as exc:
                if exc.code != "engine_unavailable":
                    self.ledger.say(f"{model}: {exc}")
                return False

        for model in models:
            wait_for(lambda model=model: one(model), f"{model} does not answer again")  # type: ignore[misc]

    def _nobody_left(self) -> None:
        wait_for(lambda: not processes_of(self.home), "processes are left", 60)

    def report(self) -> list[str]:
        """What went wrong."""
        log = self.home.parent / "server.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        failures = [n for n, line in enumerate(lines) if "Traceback" in line or "watcher failed" in line]
        told = ["\n".join(lines[n : n + 30]) for n in failures]
        return [*dict.fromkeys(self.ledger.broken), *(f"the server's log has an error of ours:\n{one}" for one in told)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--vllm-kills", type=int, default=6, help="of --kills, where there is a vLLM")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    vllm = options.vllm_kills if "TUNEFORK_VLLM_PYTHON" in os.environ else 0
    with tempfile.TemporaryDirectory(prefix="tunefork-chaos-") as folder:
        chaos = Chaos(Path(folder) / "home", options.seed, lambda text: print(text, flush=True))
        print(f"seed {options.seed}, {options.kills} deaths" + ("" if vllm else ", none of vLLM: there is none"))
        victims = chaos.rng.choices(list(VICTIMS), list(VICTIMS.values()), k=options.kills - vllm)
        try:
            chaos.scripted(victims, trainings=8)
            if vllm:
                chaos.vllm(vllm)
        except AssertionError as exc:
            chaos.ledger.say(f"{type(exc).__name__}: {exc}")
        finally:
            for left in processes_of(chaos.home):
                kill(left.pid)
        wrong = chaos.report()
        chaos.say(f"killed {dict(chaos.killed)}; {chaos.ledger.counts()}")
    for one in wrong:
        print(f"WRONG: {one}")
    print("nothing was lost" if not wrong else f"{len(wrong)} things are wrong; again with --seed {options.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

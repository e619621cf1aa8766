"""Fine-tuning jobs by the official client: one real tiny training, and what becomes of jobs that are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core.files import write_json
from core.settings import UseCase
from core.workspace import Workspace
from serve.fine_tuning import model_name
from serve.fine_tuning_child import _prefer
from serve.job import Job
from serve.job_child import without_paths
from serve.jobs import ATTEMPTS, Jobs
from serve.state import State
from tests.serve.conftest import EchoEngine, Server, declare, wait_until

Serve = Callable[..., Server]
BASE = "smollm2-135m-instruct"


def rows(count: int) -> bytes:
    def chat(n: int) -> dict[str, Any]:
        return {
            "messages": [
                {"role": "user", "content": f"Say {n}."},
                {"role": "assistant", "content": f"Here is {n}."},
            ]
        }

    return "\n".join(json.dumps(chat(n)) for n in range(count)).encode()


def upload(client: openai.OpenAI, data: bytes, purpose: Any = "fine-tune") -> str:
    return client.files.create(file=("rows.jsonl", data), purpose=purpose).id


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder")
def test_job_trains_an_adapter_that_answers_under_its_own_name(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    server = serve()
    client = server.client()
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=upload(client, rows(8)),
        validation_file=upload(client, rows(2)),
        suffix="Greeter!",
        seed=3,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 0.5},
            },
        },
        metadata={"team": "front desk"},
    )
    assert job.fine_tuned_model is None
    assert job.status in ("queued", "running")
    assert "ft-" not in " ".join(model.id for model in client.models.list())
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status not in ("queued", "running"), timeout_s=300)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error) == ("succeeded", None), (
        workspace.path / "server" / "jobs" / job.id / "log.txt"
    ).read_text()
    name = job.fine_tuned_model
    assert name is not None
    assert "-greeter-" in name
    assert job.trained_tokens is not None
    assert job.trained_tokens > 0
    assert job.finished_at is not None
    assert {name, f"{name}:tune"} <= {model.id for model in client.models.list()}
    answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Say 3."}])
    assert answer.choices[0].message.content
    adapter = workspace.use_case(name).adapters.active()
    assert adapter is not None
    assert engines[BASE].requests[-1].adapter == str(adapter)
    origin = json.loads((adapter / "origin.json").read_text())
    assert origin["scores"]["steps"] == 2

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert events[0].message == "the job has succeeded"
    assert sum(event.type == "metrics" for event in events) >= 2
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoint.fine_tuned_model_checkpoint == name
    assert checkpoint.metrics.full_valid_loss is not None
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"team": "front desk"})] == [job.id]
    assert client.fine_tuning.jobs.list(metadata={"team": "x"}).data == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"model": "faq"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"training_file": "assistants"}, "training_file"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}}, None),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"model": "faq:base"}, "model"),
        ({"hyperparameters": {"n_epochs": 0}}, None),
        ({"suffix": "x" * 41}, "suffix"),
        ({"weight_decay": 1}, "weight_decay"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    serve: Serve, workspace: Workspace, body: dict[str, Any], param: str | None
) -> None:
    workspace.declare("faq", {"base_model": BASE})
    server = serve()
    client = server.client()
    if body.get("training_file") == "assistants":
        body = {"training_file": upload(client, b"{}", "assistants")}
    whole = {"model": BASE, "training_file": upload(client, b"{}"), **body}
    answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", json=whole)
    assert answer.status_code in (400, 404)
    found = answer.json()["error"]["param"]
    assert found == param if param else "hyperparameters." in found


def test_dpo_job_learns_from_openais_preference_rows(
    serve: Serve, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the training itself, which tests/tuning/test_preferences.py is about."""
    pytest.importorskip("trl")
    server = serve()
    server.app.state.services.jobs._start = lambda job: None
    client = server.client()

    def pair(n: int) -> dict[str, Any]:
        return {
            "input": {"messages": [{"role": "user", "content": f"Say {n}."}]},
            "preferred_output": [{"role": "assistant", "content": f"{n}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"Certainly!\u2028Here is {n}."}],
        }

    hyperparameters: Any = {"n_epochs": 1, "batch_size": 2, "beta": 0.2, "learning_rate_multiplier": 2}
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=upload(client, "\n".join(json.dumps(pair(n), ensure_ascii=False) for n in range(3)).encode()),
        method={"type": "dpo", "dpo": {"hyperparameters": hyperparameters}},
        seed=7,
    )
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2

    given: list[Any] = []
    monkeypatch.setattr("tuning.preferences.train_preferences", lambda *arguments: given.append(arguments))
    folder = server.app.state.services.jobs.folder(job.id)
    spec = json.loads((folder / "spec.json").read_text())["spec"]
    settings = UseCase(name="ft", base_model=BASE, seed=spec["seed"])
    _prefer(tmp_path, settings, workspace, spec, folder / spec["training_file"])
    ((_, _, _, pairs, recipe),) = given
    assert [(p.messages[0].content, p.chosen, p.rejected, p.line) for p in pairs][1] == (
        "Say 1.",
        "1",
        "Certainly!\u2028Here is 1.",
        2,
    )
    assert (recipe.beta, recipe.epochs, recipe.batch_rows, recipe.seed) == (0.2, 1, 2, 7)
    assert recipe.learning_rate == pytest.approx(1e-4)


@pytest.mark.slow
def test_file_that_cannot_be_learnt_from_fails_the_job_with_its_line(serve: Serve, workspace: Workspace) -> None:
    client = serve().client()
    data = rows(2) + b'\n{"messages": [{"role": "user", "content": "no answer"}]}'
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client, data))
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "failed")
    failed = client.fine_tuning.jobs.retrieve(job.id)
    error = failed.error
    assert error is not None
    assert failed.finished_at is not None
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert error.message.startswith("training.jsonl:3:")
    assert str(workspace.path) not in error.message
    assert not list((workspace.path / "use_cases").glob("ft-*"))


def test_only_models_that_jobs_made_are_deleted(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    declare(workspace, "ft-echo-1")
    server = serve()
    client = server.client()
    with server.app.state.services.state.change() as db:
        db.execute(
            "INSERT INTO jobs (id, kind, subject, spec, state, created_at)"
            " VALUES ('ftjob-1', 'fine_tuning', 'ft-echo-1', '{}', 'succeeded', 0)"
        )
    for kept in ("faq", "echo", "ft-echo-1:base"):
        with pytest.raises(openai.BadRequestError):
            client.models.delete(kept)
    assert client.models.delete("ft-echo-1").deleted
    assert workspace.names() == ["faq"]
    with pytest.raises(openai.NotFoundError):
        client.models.delete("ft-echo-1")


@pytest.fixture
def state(workspace: Workspace) -> Any:
    state = State(workspace.path)
    yield state
    state.close()


class Sleeping(Jobs):
    """Jobs whose children only hold their lock and sleep."""

    code = (
        "import sys, time; from pathlib import Path; from core.locks import hold\n"
        "with hold(Path(sys.argv[1]) / '.lock', 'x'):\n"
        "    (Path(sys.argv[1]) / 'up').touch(); time.sleep(600)"
    )

    def __init__(self, state: State, workspace: Workspace) -> None:
        super().__init__(state, workspace, forks=False)

    def _command(self, folder: Path) -> list[str]:
        return [*super()._command(folder)[:1], "-c", self.code, str(folder)]


def up(jobs: Jobs, job: Job) -> int:
    """Waits until the job's child is at work; returns its process id."""
    wait_until(lambda: (jobs.folder(job.id) / "up").exists())
    return int((jobs.folder(job.id) / ".lock.owner").read_text())


def state_of(jobs: Jobs, job: Job) -> str:
    found = jobs.get(job.id)
    assert found is not None
    return found.state


def test_running_job_is_cancelled_and_its_process_is_gone(state: State, workspace: Workspace) -> None:
    jobs = Sleeping(state, workspace)
    jobs.start({})
    try:
        job, waiting = (jobs.submit("fine_tuning", "x", {}, "job-") for _ in range(2))
        pid = up(jobs, job)
        assert state_of(jobs, waiting) == "queued"
        cancelled = jobs.cancel(waiting.id)
        assert cancelled is not None
        assert cancelled.state == "cancelled"
        jobs.cancel(job.id)
        wait_until(lambda: state_of(jobs, job) == "cancelled")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        jobs.close()


def test_killed_job_begins_again_and_fails_with_a_reason_in_the_end(state: State, workspace: Workspace) -> None:
    jobs = Sleeping(state, workspace)
    jobs.start({})
    try:
        job = jobs.submit("fine_tuning", "x", {}, "job-")
        for _ in range(ATTEMPTS):
            pid = up(jobs, job)
            # Before the kill: the next child may be up at once.
            (jobs.folder(job.id) / "up").unlink()
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: state_of(jobs, job) == "failed")
        ended = jobs.get(job.id)
        assert ended is not None
        assert ended.error is not None
        assert ended.error["code"] == "killed"
        assert ended.attempts == ATTEMPTS
    finally:
        jobs.close()


def test_job_of_a_killed_server_is_watched_on_by_the_next(state: State, workspace: Workspace) -> None:
    dead = Sleeping(state, workspace)
    dead.start({})
    job = dead.submit("fine_tuning", "x", {}, "job-")
    pid = up(dead, job)
    # As after kill -9: nobody watches, nothing is told.
    dead._stopping.set()
    dead._wake.set()
    dead._thread.join()
    process = dead._children[job.id].process
    assert process is not None
    again = Sleeping(state, workspace)
    ended: list[Job] = []
    again.start({"fine_tuning": ended.append})
    try:
        other = again.submit("fine_tuning", "y", {}, "job-")
        assert (state_of(again, job), state_of(again, other)) == ("running", "queued")
        write_json(again.folder(job.id) / "result.json", {"error": None, "result": {"fine_tuned_model": "m"}})
        os.kill(pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: state_of(again, job) == "succeeded")
        assert [one.result for one in ended] == [{"fine_tuned_model": "m"}]
        up(again, other)
    finally:
        again.close()
    assert state_of(again, other) == "queued"


def test_job_whose_process_died_with_the_server_is_begun_again(state: State, workspace: Workspace) -> None:
    with state.change() as db:
        db.execute(
            "INSERT INTO jobs (id, kind, subject, spec, state, attempts, created_at)"
            " VALUES ('job-1', 'advise', 'faq', '{}', 'running', 1, 0)"
        )
    (state.folder / "jobs" / "job-1").mkdir(parents=True)
    jobs = Sleeping(state, workspace)
    jobs.start({})
    try:
        job = jobs.get("job-1")
        assert job is not None
        up(jobs, job)
        assert [event.level for event in jobs.events("job-1")][:2] == ["warn", "info"]
    finally:
        jobs.close()


def test_names_of_models_fit_and_differ() -> None:
    names = {model_name("org/Some Long Model Name " * 5, "x" * 40) for _ in range(50)}
    assert len(names) == 50
    assert all(len(name) <= 64 for name in names)
    assert model_name(BASE, None).startswith("ft-smollm2-135m-instruct-")
    assert "-my-model-" in model_name(BASE, "My Model!")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{home}/server/jobs/ftjob-1/training.jsonl:3: no answer", "training.jsonl:3: no answer"),
        ("model '/opt/models/m': no config.json", "model 'm': no config.json"),
        ("see http://127.0.0.1:80/v1/x and 3/4", "see http://127.0.0.1:80/v1/x and 3/4"),
    ],
)
def test_no_folder_of_this_machine_is_shown(home: Path, text: str, shown: str) -> None:
    assert without_paths(text.format(home=home)) == shown


def test_job_that_cannot_be_started_fails_and_holds_up_no_other(state: State, workspace: Workspace) -> None:
    class Broken(Sleeping):
        def _command(self, folder: Path) -> list[str]:
            return ["/no/such/program"] if "broken" in folder.name else super()._command(folder)

    jobs = Broken(state, workspace)
    jobs.start({})
    try:
        broken = jobs.submit("fine_tuning", "x", {}, "broken-")
        after = jobs.submit("fine_tuning", "x", {}, "job-")
        up(jobs, after)
        ended = jobs.get(broken.id)
        assert ended is not None
        assert ended.error is not None
        assert ended.error["code"] == "server_error"
    finally:
        jobs.close()

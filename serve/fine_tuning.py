"""Fine-tuning jobs: from files and hyperparameters to a job, and from a job to what the API says of it."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from core.files import read_own_jsonl
from core.workspace import UseCaseFolder, Workspace
from serve.files import Files, StoredFile, link
from serve.job import Job
from serve.jobs import Jobs
from serve.served import public_name

KIND = "fine_tuning"
MAX_SUFFIX = 40
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
Number = int | float | None


class FineTuning:
    """The fine-tuning jobs of a workspace."""

    def __init__(self, workspace: Workspace, files: Files, jobs: Jobs) -> None:
        self._workspace = workspace
        self._files = files
        self._jobs = jobs

    def create(
        self,
        base_model: str,
        training: StoredFile,
        validation: StoredFile | None,
        *,
        suffix: str | None,
        seed: int,
        epochs: Number,
        batch_size: Number,
        learning_rate_multiplier: Number,
        metadata: Mapping[str, str] | None,
        method: Literal["supervised", "dpo"] = "supervised",
        beta: Number = None,
    ) -> Job:
        """A new job. Its files stay with it, whatever becomes of the uploads.

        Args:
            epochs, batch_size, learning_rate_multiplier, beta: None: chosen from the data and the model.
        """
        given = {"training": training, "validation": validation}
        names = {f"{role}_file": _local_name(role, file) for role, file in given.items()}
        spec = {
            **names,
            "method": method,
            "beta": beta,
            "base_model": base_model,
            "training_file_id": training.id,
            "validation_file_id": None if validation is None else validation.id,
            "recipe": {"epochs": epochs, "batch_rows": batch_size},
            "learning_rate_multiplier": learning_rate_multiplier,
            "seed": seed,
            "metadata": dict(metadata or {}),
        }

        def prepare(folder: Path) -> None:
            for role, file in given.items():
                name = names[f"{role}_file"]
                if file is not None and name is not None:
                    link(self._files.path(file), folder / name)

        return self._jobs.submit(KIND, model_name(base_model, suffix), spec, "ftjob-", prepare)

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id, KIND)

    def all(self) -> list[Job]:
        """Oldest first."""
        return self._jobs.of(KIND)[::-1]

    def made(self, name: str) -> bool:
        """Whether the use case `name` is the result of a job."""
        return any(job.state == "succeeded" for job in self._jobs.of(KIND, name))

    def cancel(self, id: str) -> Job | None:
        return self._jobs.cancel(id)

    def events(self, job: Job) -> list[dict[str, Any]]:
        """What has happened, oldest first, as the API shows it: the job's states, and each step of the training."""
        said = [
            _event(job, f"{event.seq}", event.at, event.level, event.message, "message", None)
            for event in self._jobs.events(job.id)
        ]
        steps = [
            _event(
                job,
                f"step-{number}",
                job.started_at or job.created_at,
                "info",
                _said(row),
                "metrics",
                {name: value for name, value in row.items() if name != "best"},
            )
            for number, row in enumerate(self._measured(job), start=1)
        ]
        end = -1 if job.over else len(said)
        return [*said[:end], *steps, *said[end:]] if job.over else [*said, *steps]

    def ended(self, job: Job) -> None:
        """Leave nothing of a training that came to nothing; called as a job ends."""
        folder = UseCaseFolder(self._workspace.path / "use_cases" / job.subject)
        if job.state != "succeeded" and not (folder.path / "use_case.toml").exists():
            shutil.rmtree(folder.path, ignore_errors=True)

    def document(self, job: Job) -> dict[str, Any]:
        """A job as the API shows it."""
        spec, result = job.spec, job.result or {}
        hyperparameters = {
            "n_epochs": _auto(spec["recipe"]["epochs"]),
            "batch_size": _auto(spec["recipe"]["batch_rows"]),
            "learning_rate_multiplier": _auto(spec["learning_rate_multiplier"]),
        }
        method = spec["method"]
        beta = {"beta": _auto(spec["beta"])} if method == "dpo" else {}
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": job.created_at,
            "finished_at": job.finished_at,
            "model": public_name(spec["base_model"]),
            "fine_tuned_model": result.get("fine_tuned_model"),
            "organization_id": "tunefork",
            "status": job.state,
            "hyperparameters": hyperparameters,
            "method": {"type": method, method: {"hyperparameters": hyperparameters | beta}},
            "training_file": spec["training_file_id"],
            "validation_file": spec["validation_file_id"],
            "result_files": [],
            "trained_tokens": result.get("trained_tokens"),
            "error": job.error,
            "seed": spec["seed"],
            "estimated_finish": None,
            "integrations": [],
            "metadata": spec["metadata"],
        }

    def checkpoints(self, job: Job) -> list[dict[str, Any]]:
        """The best weights of a training that succeeded; others are not kept."""
        if job.state != "succeeded" or job.result is None:
            return []
        return [
            {
                "id": f"ftckpt_{job.id.removeprefix('ftjob-')}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": job.finished_at,
                "fine_tuned_model_checkpoint": job.result["fine_tuned_model"],
                "fine_tuning_job_id": job.id,
                "step_number": job.result["step"],
                "metrics": job.result["metrics"],
            }
        ]

    def _measured(self, job: Job) -> list[dict[str, Any]]:
        """Rows of the training's metrics, while it runs and after."""
        home = UseCaseFolder(self._workspace.path / "use_cases" / job.subject)
        done = sorted(home.adapters.folder.glob("v*/metrics.jsonl"))
        live = sorted(home.path.glob("training/*/metrics.jsonl"))
        return read_own_jsonl((done or live)[-1]) if done or live else []


def model_name(base_model: str, suffix: str | None) -> str:
    """A fresh name of a use case: ft-BASE-SUFFIX-ID, at most 64 characters."""
    end = f"-{_plain(suffix)}" if suffix and _plain(suffix) else ""
    end += f"-{secrets.token_hex(4)}"
    return f"ft-{_plain(public_name(base_model))[: 60 - len(end)].strip('-')}{end}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-")


def _local_name(role: str, file: StoredFile | None) -> str | None:
    if file is None:
        return None
    suffix = Path(file.filename).suffix.lower()
    return f"{role}{suffix if suffix in _SUFFIXES else '.jsonl'}"


def _auto(value: Number) -> Any:
    return "auto" if value is None else value


def _said(row: Mapping[str, Any]) -> str:
    if "dev_loss" in row:
        return f"step {row['step']}: loss on held-out rows {row['dev_loss']:.4f}"
    return f"step {row['step']}: training loss {row['loss']:.4f}" if "loss" in row else f"step {row['step']}"


def _event(job: Job, id: str, at: int, level: str, message: str, type: str, data: Any) -> dict[str, Any]:
    return {
        "id": f"ftevent-{job.id.removeprefix('ftjob-')}-{id}",
        "object": "fine_tuning.job.event",
        "created_at": at,
        "level": level,
        "message": message,
        "type": type,
        "data": data,
    }

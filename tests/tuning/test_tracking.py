"""`--track`: what metrics.jsonl holds is found again where a team looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.errors import ConfigError, MissingExtra
from core.rows import Row
from core.workspace import Workspace
from tuning.tracking import tracking


@pytest.fixture
def tune(
    workspace: Workspace, tiny_base: Path, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Any:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))

    def run(tracker: str) -> list[dict[str, Any]]:
        flags = ["--train", str(path), "--method", "lora", "--base-model", str(tiny_base), "--rank", "2"]
        assert main(["tune", "bank", *flags, "--epochs", "1", "--track", tracker, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        return [json.loads(line) for line in (Path(report["folder"]) / "metrics.jsonl").read_text().splitlines()]

    return run


def _losses(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics if "loss" in row}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_same_losses(tune: Any, workspace: Workspace) -> None:
    pytest.importorskip("tensorboard", reason="the extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = tune("tensorboard")
    (folder,) = workspace.path.glob("use_cases/bank/runs/*/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(_losses(metrics), rel=1e-5)
    assert {"dev_loss", "dev_score", "tokens_per_s", "final_dev_loss"} <= set(events.Tags()["scalars"])


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_same_losses(tune: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    metrics = tune("mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tunefork")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params["rank"], run.data.params["method"]) == ("FINISHED", "2", "lora")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {m.step: m.value for m in history} == pytest.approx(_losses(metrics))


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_server_that_is_not_there_is_said_before_training(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tried = tracking("mlflow", tmp_path, "x", {}, workspace.path)
    with pytest.raises(ConfigError, match=r"MLflow at http://127.0.0.1:9 cannot be written to"), tried:
        pass


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_a_library_that_is_missing_is_named(
    tracker: Any, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.tracking.find_spec", lambda _name: None)
    tried = tracking(tracker, tmp_path, "x", {}, workspace.path)
    wanted = rf"--track {tracker} needs .* pip install 'tunefork\[{tracker}\]'"
    with pytest.raises(MissingExtra, match=wanted), tried:
        pass


def test_a_tracker_that_breaks_does_not_stop_a_training(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextlib import contextmanager

    seen = []

    @contextmanager
    def broken(_run: Path, _config: Any) -> Any:
        def record(step: int, values: Any) -> None:
            seen.append(step)
            raise OSError("disk full")

        yield record

    monkeypatch.setattr("tuning.tracking._tensorboard", broken)
    with tracking("tensorboard", tmp_path, "x", {}, workspace.path) as track:
        track({"step": 1, "loss": 2.0})
        track({"step": 2, "loss": 1.0})
    assert seen == [1]
    assert capsys.readouterr().err.count("takes no more metrics (disk full)") == 1

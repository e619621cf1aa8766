"""A run's metrics where a team already looks: TensorBoard or MLflow, beside metrics.jsonl."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from core.errors import ConfigError, MissingExtra
from core.progress import say

Tracker = Literal["tensorboard", "mlflow"]
Track = Callable[[Mapping[str, Any]], None]
"""Takes a row of metrics.jsonl: a `step`, and numbers by name; what is no number is left out."""

EXPERIMENT = "tunefork"
_PARAM_LIMIT = 500
"""Characters of a parameter that every MLflow store takes."""


@contextmanager
def tracking(tracker: Tracker | None, run: Path, name: str, config: Mapping[str, Any], home: Path) -> Iterator[Track]:
    """A function that records rows, for the block; without a tracker it records nothing.

    TensorBoard's event files go to `run`/tensorboard. MLflow's go to the server that MLFLOW_TRACKING_URI names, else to
    `home`/mlflow.db; no other network call is made. A tracker that fails later is said once and the training goes on.

    Args:
        run: folder of the run.
        name: what the run is called.
        config: recorded beside it.
        home: the workspace.

    Raises:
        MissingExtra: its library is not installed.
        ConfigError: the MLflow server cannot be reached.
    """
    if tracker is None:
        yield lambda _row: None
        return
    with _tensorboard(run, config) if tracker == "tensorboard" else _mlflow(name, config, home) as record:
        failed = False

        def track(row: Mapping[str, Any]) -> None:
            nonlocal failed
            values = {key: float(v) for key, v in row.items() if key != "step" and type(v) in (int, float)}
            if failed or not values:
                return
            try:
                record(int(row["step"]), values)
            except Exception as exc:  # noqa: BLE001 - of either library; a training is worth more than its plots
                failed = True
                say(f"warning: {tracker} takes no more metrics ({str(exc).splitlines()[0]}); metrics.jsonl has them")

        yield track


def track_scores(track: Track, scores: Mapping[str, Any]) -> None:
    """Record what a training ended with: numbers, and the values of rates with an interval."""
    flat = {
        f"final_{key}": value["value"] if isinstance(value, Mapping) and "value" in value else value
        for key, value in scores.items()
    }
    track({"step": scores.get("steps", 0), **flat})


@contextmanager
def _tensorboard(run: Path, config: Mapping[str, Any]) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    if find_spec("tensorboard") is None:
        raise MissingExtra("--track tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    with SummaryWriter(str(folder), flush_secs=10) as writer:
        writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))
        say(f"tensorboard --logdir {folder}")

        def record(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        yield record


@contextmanager
def _mlflow(name: str, config: Mapping[str, Any], home: Path) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    if find_spec("mlflow") is None:
        raise MissingExtra("--track mlflow", "mlflow")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Its own defaults keep a training waiting for minutes when a server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import logging
    import time

    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for library in ("alembic", "mlflow"):
        logging.getLogger(library).setLevel(logging.WARNING)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home / 'mlflow.db').resolve()}"
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        place = str((home / "mlflow").resolve()) if uri.startswith("sqlite:") else None
        experiment = client.create_experiment(EXPERIMENT, place) if known is None else known.experiment_id
        run_id = client.create_run(experiment, run_name=name).info.run_id
        params = [Param(key, str(value)[:_PARAM_LIMIT]) for key, value in config.items() if value is not None]
        client.log_batch(run_id, params=params)
    except MlflowException as exc:
        reason = str(exc).splitlines()[0]
        raise ConfigError(f"MLflow at {uri} cannot be written to ({reason}); see MLFLOW_TRACKING_URI") from exc
    say(f"mlflow ui --backend-store-uri {uri}")

    def record(step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    status = "FAILED"
    try:
        yield record
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        try:
            client.set_terminated(run_id, status)
        except MlflowException as exc:
            say(f"warning: the MLflow run stays open ({str(exc).splitlines()[0]})")

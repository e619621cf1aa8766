"""What the server has beside the models: keys, state, usage, figures, logs, jobs. Opened with it, closed with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from fastapi import Request

from core.workspace import Workspace
from serve.advise_child import HOME
from serve.buckets import KeyLimits
from serve.files import Files
from serve.fine_tuning import KIND as TUNING_JOB
from serve.fine_tuning import FineTuning
from serve.job import Job
from serve.jobs import Jobs
from serve.keys import KeyStore
from serve.metrics import Metrics
from serve.request_log import RequestLog
from serve.state import State
from serve.store_search import StoreSearch
from serve.stores import KIND as STORE_JOB
from serve.stores import Stores
from serve.tracing import Tracing
from serve.usage import Prices, UsageBook

MAX_FILE_BYTES = 512 * 1024 * 1024
"""As at OpenAI."""


@dataclass(frozen=True)
class Options:
    """How the server is run, beyond which models it serves."""

    prices: Prices = field(default_factory=Prices)
    log_requests: bool = False
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may use the API; none may unless told."""
    max_file_bytes: int = MAX_FILE_BYTES
    tracing: Tracing | None = None
    """Closed with the services."""


class Services:
    """Usable between `open` and `close`."""

    def __init__(self, workspace: Workspace, options: Options) -> None:
        self.workspace = workspace
        self.options = options
        self.keys = KeyStore(workspace.path)
        self.limits = KeyLimits()
        self.metrics = Metrics()
        self.state: State
        self.usage: UsageBook
        self.log: RequestLog
        self.files: Files
        self.stores: Stores
        self.search: StoreSearch
        self.jobs: Jobs
        self.fine_tuning: FineTuning

    def open(self) -> None:
        """Raises ArtifactError when the state cannot be used."""
        self.state = State(self.workspace.path)
        self.usage = UsageBook(self.state, self.options.prices)
        self.log = RequestLog(self.workspace, self.options.log_requests)
        self.files = Files(self.state)
        self.stores = Stores(self.state, self.files)
        self.search = StoreSearch(self.workspace, self.stores)
        self.jobs = Jobs(self.state, self.workspace)
        self.fine_tuning = FineTuning(self.workspace, self.files, self.jobs)
        # Before any job can end, which the stores must hear of.
        self.stores.attach(self.jobs)
        self.jobs.start(
            {STORE_JOB: self.stores.indexed, TUNING_JOB: self.fine_tuning.ended, "advise": self._advise_ended}
        )

    def _advise_ended(self, job: Job) -> None:
        shutil.rmtree(self.jobs.folder(job.id) / HOME, ignore_errors=True)

    def close(self) -> None:
        """Stop the jobs' processes, store what is waiting."""
        self.jobs.close()
        self.search.close()
        self.log.close()
        self.usage.close()
        self.state.close()
        if self.options.tracing is not None:
            self.options.tracing.close()


def services_of(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services

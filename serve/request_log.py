"""The opt-in log of requests: what was asked and answered, for people to judge and the advisor to measure on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from core.files import append_jsonl
from core.request_log import feedback_path, find_request, requests_path
from core.workspace import UseCaseFolder, Workspace

if TYPE_CHECKING:
    from serve.metering import Meter


class RequestLog:
    """Appends in a thread of its own: no answer waits for the disk."""

    def __init__(self, workspace: Workspace, on: bool) -> None:
        self.on = on
        self._workspace = workspace
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tunefork-log")

    def answered(self, meter: Meter) -> None:
        """Log the first answer to a request for a use case, when the log is on. Base models' requests are not kept."""
        use_case = meter.asked.use_case if meter.asked is not None else ""
        if not self.on or not use_case or 0 not in meter.answers or 0 not in meter.wanted:
            return
        arm = {"arm": meter.asked.arm} if meter.asked is not None and meter.asked.arm else {}
        row = {
            "request_id": meter.request_id,
            "created": _now(),
            "model": meter.model,
            "messages": [{"role": m.role, "content": m.content} for m in meter.wanted[0].messages],
            "answer": meter.answers[0],
            **arm,
        }
        self._writer.submit(self._append, use_case, row)

    def feedback(self, folder: UseCaseFolder, said: dict[str, Any]) -> dict[str, Any] | None:
        """Store a judgement; returns the logged request it is on, None when none of its id was logged for that use
        case. Waits for the disk."""
        self._writer.submit(lambda: None).result()
        request = find_request(folder, said["request_id"])
        if request is not None:
            self._writer.submit(append_jsonl, feedback_path(folder), {**said, "created": _now()}).result()
        return request

    def close(self) -> None:
        """Write what is waiting."""
        self._writer.shutdown(wait=True)

    def _append(self, use_case: str, row: dict[str, Any]) -> None:
        # Deleted meanwhile: its folder must not come back.
        if use_case in self._workspace.names():
            append_jsonl(requests_path(self._workspace.use_case(use_case)), row)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

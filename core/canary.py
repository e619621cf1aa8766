"""A canary: a share of a use case's requests that goes to another remedy, or another of its variants, than the one in force.

use_cases/NAME/canary.json says which and how much; replacing or removing that one file is all it takes, and a running
server follows with the next request.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ArtifactError
from core.files import read_json, read_own_jsonl, write_json
from core.remedy import Remedy, in_force, load_version
from core.request_log import feedback_path, requests_path, said_last
from core.workspace import UseCaseFolder

VARIANTS = ("rag", "tune", "base")

Arm = Annotated[str, Field(pattern=r"^(v\d{4,}|rag|tune|base)$")]
"""A remedy that was built earlier or later than the one in force, or a variant of the use case."""


class Canary(BaseModel):
    """What is tried on a share of the requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    arm: Arm
    share: float = Field(gt=0, le=1)
    salt: str
    """Makes each canary draw other requests than the one before it."""
    started: str
    """ISO time."""

    def takes(self, ticket: str) -> bool:
        """Whether the request with this `ticket` is the canary's. The same ticket always is or is not, and a larger share
        keeps those that a smaller one had."""
        drawn = hashlib.sha256(f"{self.salt}\0{ticket}".encode("utf-8", "replace")).digest()
        return int.from_bytes(drawn[:8]) < self.share * 2.0**64


def load_canary(folder: UseCaseFolder) -> Canary | None:
    """The canary under way; None where there is none.

    Raises:
        ArtifactError: the file is damaged or from a newer Tunefork.
    """
    try:
        return Canary.model_validate(read_json(folder.canary_path))
    except FileNotFoundError:
        return None
    except ValidationError as exc:
        raise ArtifactError(f"{folder.canary_path}: {exc.errors()[0]['msg']}; start the canary again") from exc


def start_canary(folder: UseCaseFolder, arm: str, share: float) -> Canary:
    """Send `share` (0-1) of the requests to `arm`: a new canary, or another share of the one under way."""
    now = load_canary(folder)
    if now is not None and now.arm == arm:
        canary = now.model_copy(update={"share": share})
    else:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        canary = Canary(arm=arm, share=share, salt=secrets.token_hex(8), started=started)
    write_json(folder.canary_path, canary.model_dump(mode="json"))
    return canary


def end_canary(folder: UseCaseFolder) -> None:
    """All requests go to what is in force again."""
    folder.canary_path.unlink(missing_ok=True)


def canary_remedy(folder: UseCaseFolder, canary: Canary, present: Remedy) -> tuple[Remedy, str]:
    """The remedy and the variant ("" for the remedy's own route) that answer the canary's requests.

    Raises:
        ArtifactError: its version is gone or damaged.
    """
    if canary.arm in VARIANTS:
        return present, canary.arm
    return load_version(folder.remedy_path, canary.arm), ""


def control_arm(folder: UseCaseFolder) -> str:
    """What the other requests are counted under: the remedy in force."""
    return in_force(folder.remedy_path) or "in_force"


@dataclass
class Tally:
    """What the request log says of one arm."""

    requests: int = 0
    good: int = 0
    bad: int = 0

    @property
    def judged(self) -> int:
        return self.good + self.bad


def tallies(folder: UseCaseFolder, since: str) -> dict[str, Tally]:
    """Logged requests and feedback on them from `since` on, by arm.

    Of several words on one answer the last counts. One without a rating calls the answer good that is as expected.
    """
    found: dict[str, Tally] = {}
    logged = {row["request_id"]: row for row in _rows(requests_path(folder), since) if row.get("arm")}
    for row in logged.values():
        found.setdefault(row["arm"], Tally()).requests += 1
    for said in said_last(_rows(feedback_path(folder), since)):
        row = logged.get(said["request_id"], {})
        if not row:
            continue
        rating = said.get("rating") or ("good" if said.get("expected") == row["answer"] else "bad")
        if rating == "good":
            found[row["arm"]].good += 1
        else:
            found[row["arm"]].bad += 1
    return found


def _rows(path: Path, since: str) -> Iterable[Mapping[str, Any]]:
    return (row for row in read_own_jsonl(path) if row.get("created", "") >= since)

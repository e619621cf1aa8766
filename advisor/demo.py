"""The whole loop on the shipped examples, as a user would do it: the same commands, the same endpoint.

Each step is the command a person would type, run as a process of its own; the
held-out questions go through the official openai client to the running server.
Nothing here knows a result: the verdict comes from the rule, the scores from asking.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.materials import Materials, gather
from advisor.scoring import outcome
from core.errors import ArtifactError, EngineUnavailable, TuneforkError
from core.progress import progress, say
from core.rows import Row, read_rows
from core.stats import Estimate, mcnemar_exact, paired_difference, wilson
from core.workspace import Workspace

CLIENTS = 8
"""Questions asked at once."""


@dataclass(frozen=True)
class Example:
    name: str
    story: str
    expected: tuple[str, ...]
    """Routes that the example was chosen to show."""


EXAMPLES = (
    Example("xquad", "knowledge: the answers stand in 240 passages the model has not learnt", ("rag",)),
    Example("banking77", "behaviour: 77 house labels no base model knows", ("tune",)),
    Example("gsm8k", "control: arithmetic a small model cannot do, whatever the remedy", ("none",)),
)


@dataclass(frozen=True)
class Shown:
    """One use case's line of the closing table."""

    example: Example
    verdict: dict[str, Any]
    n: int
    base: Estimate
    remedy: Estimate
    gained: int
    lost: int
    gain: Estimate
    p: float
    usd_per_1k: float | None
    advise_s: float
    build_s: float


def examples_folder() -> Path:
    """Where the examples lie: inside the installed package, else in the source tree."""
    for folder in (Path(__file__).resolve().parent.parent / part for part in ("core/_examples", "examples")):
        if (folder / "xquad" / "use_case.toml").is_file():
            return folder
    raise ArtifactError("the shipped examples are missing from this installation; install tunefork again")


def run_demo(workspace: Workspace, names: Sequence[str]) -> list[Shown]:
    """Advise, build, serve and ask each example of `names`, in that order.

    Raises:
        TuneforkError: a step failed; its own message is on stderr already.
    """
    folder = examples_folder()
    chosen = [example for example in EXAMPLES if example.name in names]
    steps: dict[str, tuple[dict[str, Any], float, float]] = {}
    for example in chosen:
        say(f"\n== {example.name}: {example.story}")
        start = time.monotonic()
        verdict = _tunefork("advise", str(folder / example.name / "use_case.toml"), "--json")
        advised = time.monotonic()
        say(f"verdict: {_route(verdict)} (confidence {verdict['confidence']:.0%})")
        for reason in verdict["reasons"]:
            say(f"  - {reason}")
        remedy = _tunefork("build", example.name, "--json")
        built = [f"{k} {remedy[k]}" for k in ("index_version", "adapter_version") if remedy[k]]
        say(f"built: {', '.join(built) or 'nothing to build, the base model answers'}")
        steps[example.name] = (verdict, advised - start, time.monotonic() - advised)
    shown = []
    say("\n== serving all of them behind one OpenAI-compatible endpoint")
    with _server() as url:
        say(f"listening at {url}/v1")
        for example in chosen:
            verdict, advise_s, build_s = steps[example.name]
            held_out = read_rows(folder / example.name / "held_out.jsonl", "evaluation")
            shown.append(_ask(workspace, url, example, held_out, verdict, advise_s, build_s))
    return shown


def _tunefork(*args: str) -> dict[str, Any]:
    """One command in a process of its own, its progress on our stderr; returns the JSON it prints."""
    say(f"$ tunefork {' '.join(args)}")
    done = subprocess.run([sys.executable, "-m", "core.cli", *args], stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode != 0:
        raise TuneforkError(f"the demo stopped: `tunefork {' '.join(args)}` ended with {done.returncode}")
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@contextmanager
def _server() -> Iterator[str]:
    """`tunefork serve` on a free port for the block; yields its URL once every use case is open."""
    command = [sys.executable, "-m", "core.cli", "serve", "--port", "0", "--json", "--no-access-log"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise EngineUnavailable(f"the demo stopped: the server ended with {process.wait()}")
        yield str(json.loads(line)["url"]).removesuffix("/v1")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(
    workspace: Workspace,
    url: str,
    example: Example,
    held_out: Sequence[Row],
    verdict: dict[str, Any],
    advise_s: float,
    build_s: float,
) -> Shown:
    materials = gather(workspace.use_case(example.name).settings())
    remedied = verdict["route"] not in ("base", "none", "undecided")
    base = _right(url, f"{example.name}:base", held_out, materials)
    remedy = _right(url, example.name, held_out, materials) if remedied else base
    gained = sum(after and not before for before, after in zip(base, remedy, strict=True))
    lost = sum(before and not after for before, after in zip(base, remedy, strict=True))
    route_arm = verdict["arms"].get(_arm_of(verdict), {})
    return Shown(
        example,
        verdict,
        len(held_out),
        wilson(sum(base), len(base)),
        wilson(sum(remedy), len(remedy)),
        gained,
        lost,
        paired_difference([float(x) for x in remedy], [float(x) for x in base]),
        mcnemar_exact(gained, lost),
        route_arm.get("usd_per_1k"),
        advise_s,
        build_s,
    )


def _right(url: str, model: str, rows: Sequence[Row], materials: Materials) -> list[bool]:
    """Whether `model` answers each row right, asked through the openai client."""
    from openai import APIError, OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=2)

    def ask(row: Row) -> bool:
        messages: Any = [{"role": m.role, "content": m.content} for m in row.messages]
        try:
            choice = client.chat.completions.create(model=model, messages=messages).choices[0]
        except APIError as exc:
            raise EngineUnavailable(f"the demo stopped: asking {model!r} failed: {exc}") from exc
        reason = "length" if choice.finish_reason == "length" else "stop"
        scored = outcome(choice.message.content or "", row, materials.scorer, materials.form, reason)  # type: ignore[arg-type]
        advance(1)
        return scored.outcome == "correct"

    with progress(f"asking {model}", len(rows), "questions") as advance, ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, rows))


def _route(verdict: dict[str, Any]) -> str:
    return str(verdict["route"]) + (f" ({verdict['method']})" if verdict["method"] else "")


def _arm_of(verdict: dict[str, Any]) -> str:
    """The measured arm that the route ships."""
    families = {"rag": "retrieved", "few-shot": "few_shot", "rag+tune": "tune_retrieved"}
    route = str(verdict["route"])
    if route == "tune":
        return f"tune:{verdict['method']}"
    arms = [arm for arm in verdict["arms"] if arm.partition(":")[0] == families.get(route, route)]
    return max(arms, key=lambda arm: verdict["arms"][arm]["rate"] or 0.0, default="closed")

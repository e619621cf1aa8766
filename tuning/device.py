"""Where to compute, and in which number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from tuning.recipe import Device


def pick_device(wanted: Device) -> torch.device:
    """The device to train on; `auto` is the first GPU, else the CPU.

    Raises:
        ConfigError: a GPU is asked for where torch sees none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise ConfigError(f"device 'cuda' is asked for, but {built}; use --device cpu, or install torch for your GPU")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and there) else "cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones there (on an EPYC with AVX512-BF16: about 5 times)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capability and bool(torch.cpu._is_avx512_bf16_supported())

"""The estimate as one JSON document (the contract of `tunefork estimate --json`), and nothing of its looks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from advisor.estimate import (
    BYTES,
    Method,
    Plan,
    check,
    data_need,
    kv_bytes_per_token,
    memory,
    rule_2_5x,
    trainable_params,
)
from advisor.estimate_time import BANDWIDTH_USE, MFU, compute_time_s, flops, utilisation
from advisor.hardware import PRICES_SEEN, SIZES_GB, Gpu, this_machine
from advisor.model_shape import ModelShape
from advisor.published import RULE_2_5X_FITS, published_for
from core.errors import ConfigError

GB = 1e9
COMPARED: tuple[Method, ...] = ("inference", "qlora", "lora", "full")


def document(shape: ModelShape, plan: Plan, tokens: float | None, gpu: Gpu | None) -> dict[str, Any]:
    """Everything `tunefork estimate` says, ready for JSON. GB are 1e9 bytes.

    `fits` is by the mid figure; `tight` lists the sizes where mid fits and high does not. `time_s` and `usd` are None
    without `tokens` and `gpu`, `usd` also where the card has no list price.

    Raises:
        ConfigError: the method does not exist for this kind of model.
    """
    notes = list(shape.notes)
    if shape.max_positions and shape.element_scale and plan.seq_len > shape.max_positions:
        longer = f"sequence length {plan.seq_len} is over the model's {shape.max_positions} positions"
        if shape.kind != "decoder":  # these cut their input; a decoder's positions may be stretched
            plan = replace(plan, seq_len=shape.max_positions)
            longer += f", computed for {shape.max_positions}"
        notes.append(longer)
    on_cpu = gpu is not None and gpu.name == "cpu"
    on_gpu = memory(shape, plan)
    used = memory(shape, plan, "cpu") if on_cpu else on_gpu
    sizes = sorted({*SIZES_GB, *([gpu.memory_gb] if gpu and not on_cpu else [])})
    if shape.active_params:
        notes.append(f"{shape.active_params:.4g} of the parameters are active for a token")
    if plan.method == "rag":
        notes.append(
            "the sequence holds question, passages and answer (4 passages of 256 tokens are about 1,024);"
            " weights include the embedding model (all-MiniLM-L6-v2, 0.09 GB); passages live in the index, not here"
        )
    published = published_for(shape.params)
    need = data_need(shape, plan)
    result: dict[str, Any] = {
        "model": shape.name,
        "method": plan.method,
        "params": shape.params,
        "trainable_params": trainable_params(shape, plan),
        "memory_gb": {
            "low": _gb(used.low),
            "mid": _gb(used.total),
            "high": _gb(used.high),
            "components": {name: _gb(value) for name, value in used.mid._asdict().items()},
        },
        "rules": {
            "2.5x": _gb(rule_2_5x(shape, plan.dtype)),
            "2.5x_fp32": _gb(rule_2_5x(shape, "fp32")),
        },
        "rules_fit": RULE_2_5X_FITS,
        "published": None
        if published is None
        else {key: value for key, value in published._asdict().items() if key != "params"},
        "fits": {str(size): on_gpu.total / GB <= size for size in sizes},
        "tight": [str(size) for size in sizes if on_gpu.total / GB <= size < on_gpu.high / GB],
        "fits_by_method": _fits_by_method(shape, plan, sizes),
        "kv_bytes_per_token": kv_bytes_per_token(shape, plan.dtype),
        "data": None if need is None else need._asdict(),
        "machine": _machine(shape, plan),
        **_time_and_money(shape, plan, tokens, gpu, used.total / GB, notes),
        "settings": {
            "rank": plan.rank,
            "targets": plan.targets,
            "batch": plan.batch,
            "seq_len": plan.seq_len,
            "dtype": plan.dtype,
            "bits": plan.quantised or 8 * BYTES[plan.dtype],
            "checkpointing": plan.checkpointing and plan.trains,
            "labels": plan.labels,
        },
    }
    result["notes"] = notes
    return result


def _fits_by_method(shape: ModelShape, plan: Plan, sizes: list[int]) -> dict[str, dict[str, str]]:
    """yes, tight or no for each method and size, all else equal; methods this model does not have are left out."""
    table: dict[str, dict[str, str]] = {}
    for method in COMPARED:
        other = replace(plan, method=method, bits=None if method != plan.method else plan.bits)
        try:
            check(shape, other)
        except ConfigError:
            continue
        used = memory(shape, other)
        table[method] = {
            str(size): "no" if used.total / GB > size else "tight" if used.high / GB > size else "yes" for size in sizes
        }
    return table


def _machine(shape: ModelShape, plan: Plan) -> dict[str, Any]:
    machine = this_machine()
    used = memory(shape, plan, "cpu")
    return {
        "ram_gb": round(machine.ram_gb, 1),
        "cores": machine.cores,
        "memory_gb": _gb(used.total),
        "fits": used.total / GB <= machine.ram_gb,
    }


def _time_and_money(
    shape: ModelShape, plan: Plan, tokens: float | None, gpu: Gpu | None, memory_gb: float, notes: list[str]
) -> dict[str, Any]:
    """tokens, flops, gpu, gpus, time_s, usd; adds the assumptions to `notes`."""
    values: dict[str, Any] = {"tokens": tokens, "flops": None, "gpu": None, "gpus": None, "time_s": None, "usd": None}
    if tokens is not None:
        values["flops"] = flops(shape, plan, tokens)
    if gpu is None:
        return values
    cards = max(1, math.ceil(memory_gb / gpu.memory_gb))
    peak = gpu.bf16_tflops if plan.dtype == "bf16" else gpu.fp32_tflops
    values |= {"gpu": gpu.name, "gpus": cards}
    if cards > 1:
        what = "cards that share the model" if gpu.name != "cpu" else "times this machine's memory"
        notes.append(f"{gpu.name} has {gpu.memory_gb} GB: it takes {cards} {what}; usd counts them all")
    if tokens is None:
        notes.append("give --tokens for time and money")
        return values
    if shape.element_scale == 0:
        notes.append("no time: an image model's work is not counted in tokens")
        return values
    seconds = compute_time_s(shape, plan, tokens, peak * cards, gpu.bandwidth_gb_s * cards)
    values["time_s"] = _significant(seconds)
    notes.append(f"time assumes {utilisation(plan):.0%} of {gpu.name}'s peak {peak:g} TFLOP/s" + _assumption(plan, gpu))
    if gpu.usd_per_hour is None:
        notes.append(f"usd unknown: no list price for {gpu.name}")
        return values
    values["usd"] = _significant(seconds / 3600 * gpu.usd_per_hour * cards)
    notes.append(f"usd at ${gpu.usd_per_hour:.2f} an hour ({gpu.offer} list price, seen {PRICES_SEEN})")
    return values


def _assumption(plan: Plan, gpu: Gpu) -> str:
    if not plan.trains and plan.method != "head":
        return f", and {BANDWIDTH_USE:.0%} of its {gpu.bandwidth_gb_s:g} GB/s to generate; prompts come on top"
    if gpu.name == "cpu":
        return " (good to a factor of three on a CPU)"
    return f" (MFU {MFU:.0%}, less what checkpointing and dequantising cost)"


def _gb(size: float) -> float:
    """GB to the MB: finer than the estimate is, so that a small model's components still show."""
    return round(size / GB, 3)


def _significant(value: float) -> float:
    return float(f"{value:.4g}")

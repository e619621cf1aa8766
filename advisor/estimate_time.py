"""Compute and time of a remedy, from a model's shape and a device's peak; formulas and sources: docs/estimate.md."""

from __future__ import annotations

from advisor.estimate import Plan, kv_bytes_per_token, weight_bytes
from advisor.model_shape import ModelShape

MFU = 0.40  # model FLOP of all the peak's, training a model that fills the card; see docs/estimate.md
QLORA_SPEED = 0.70  # of 16-bit LoRA: every layer is dequantised on each pass
BANDWIDTH_USE = 0.60  # share of peak memory bandwidth that generation reaches


def flops(shape: ModelShape, plan: Plan, tokens: float) -> float:
    """Model FLOP for `tokens`: full 6 * P * D, LoRA and QLoRA 4 * P * D (no weight gradients), forward only 2 * P * D.

    What checkpointing computes twice is not counted here; it lowers `utilisation`.
    """
    return _passes(plan) * (shape.active_params or shape.params) * tokens


def _passes(plan: Plan) -> int:
    return {"full": 6, "lora": 4, "qlora": 4}.get(plan.method, 2)


def utilisation(plan: Plan) -> float:
    """Assumed share of the device's peak FLOP that are model FLOP (MFU)."""
    share: float = MFU
    if plan.trains and plan.checkpointing:
        share *= _passes(plan) / (_passes(plan) + 2)
    return share * (QLORA_SPEED if plan.method == "qlora" else 1.0)


def compute_time_s(shape: ModelShape, plan: Plan, tokens: float, peak_tflops: float, bandwidth_gb_s: float) -> float:
    """Seconds for `tokens` on a device of that peak; for inference and rag `tokens` are the generated ones.

    Generation reads all weights and the batch's cache for each token of the batch, and is bound by whichever of
    compute and memory bandwidth is slower.
    """
    seconds = flops(shape, plan, tokens) / (peak_tflops * 1e12 * utilisation(plan))
    if plan.method in ("inference", "rag") and shape.kind in ("decoder", "speech"):
        share = (shape.active_params or shape.params) / shape.params
        cache = plan.batch * plan.seq_len * kv_bytes_per_token(shape, plan.dtype)
        step_bytes = weight_bytes(shape, plan) * share + cache
        seconds = max(seconds, tokens / plan.batch * step_bytes / (bandwidth_gb_s * 1e9 * BANDWIDTH_USE))
    return seconds

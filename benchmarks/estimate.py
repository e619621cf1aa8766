"""Does `tunefork estimate` hold? Predicted against measured peak resident memory, on this machine's CPU.

    .venv/bin/python -m benchmarks.estimate [--quick]

Each row is a fresh process that builds SmolLM2-135M from its shape (weights are random: memory does not depend on
their values), runs two plain training steps (PEFT LoRA rank 16 on all linear layers, or full; AdamW; all logits) or a
short generation, and reports its peak (VmHWM, reset after the model is built). `--quick` runs three rows.
The estimate's two CPU factors were fitted to FITTED; CHECKED had no part in that. Target: every row within 20 %. The bound is the machine, not a peer: no other tool here estimates CPU memory.
Raw figures go to benchmarks/results/estimate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from advisor.estimate import Dtype, Plan, memory
from advisor.known_models import known_shape

RESULTS = Path(__file__).resolve().parent / "results" / "estimate.json"
MODEL = "smollm2-135m-instruct"
TARGET = 0.20
STEPS = 2

QUICK = (
    Plan("lora", batch=1, seq_len=128, checkpointing=False),
    Plan("lora", batch=4, seq_len=128, checkpointing=True),
    Plan("inference", batch=4, seq_len=128),
)
FITTED = (
    *(
        Plan("lora", batch=batch, seq_len=seq_len, dtype=dtype, checkpointing=checkpointing)
        for dtype in get_args(Dtype)
        for checkpointing in (True, False)
        for batch, seq_len in ((1, 128), (1, 512), (4, 128), (4, 256), (8, 256), (4, 512), (1, 1024))
    ),
    Plan("lora", targets="qv", batch=4, seq_len=256, checkpointing=False),
    Plan("full", batch=4, seq_len=256, checkpointing=False),
    Plan("full", batch=4, seq_len=256, dtype="fp32", checkpointing=False),
    Plan("inference", batch=4, seq_len=256),
    Plan("inference", batch=1, seq_len=1024, dtype="fp32"),
)
CHECKED = (
    Plan("lora", batch=2, seq_len=384),
    Plan("lora", batch=16, seq_len=64),
    Plan("lora", batch=3, seq_len=300, dtype="fp32"),
    Plan("lora", batch=2, seq_len=384, checkpointing=False),
    Plan("lora", batch=16, seq_len=64, dtype="fp32", checkpointing=False),
    Plan("lora", targets="attn", batch=6, seq_len=200, dtype="fp32", checkpointing=False),
    Plan("full", batch=2, seq_len=128, checkpointing=False),
    Plan("full", batch=8, seq_len=256, checkpointing=False),
    Plan("full", batch=2, seq_len=128, dtype="fp32", checkpointing=False),
    Plan("full", batch=8, seq_len=128, dtype="fp32", checkpointing=False),
    Plan("full", batch=4, seq_len=256, dtype="fp32"),
    Plan("inference", batch=8, seq_len=512),
)


def measure(plan: Plan) -> dict[str, float]:
    """Peak resident bytes and seconds a step of one plan, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.estimate", "--one", json.dumps(asdict(plan))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_one(plan: Plan) -> dict[str, float]:
    """Run `plan` in this process: {"peak_bytes", "step_s"}."""
    import peft
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from advisor.known_models import KNOWN, config_of

    row = next(row for row in KNOWN if "SmolLM2-135M" in row.hub_id)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config_of(row), max_position_embeddings=8192),
        dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[plan.dtype],
    )
    vocab = row.vocab
    if plan.method == "lora":
        modules = "all-linear" if plan.targets == "all" else ["q_proj", "v_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=plan.rank, target_modules=modules))
    if plan.trains and plan.checkpointing:
        model.config.use_cache = False
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    ids = torch.randint(vocab, (plan.batch, plan.seq_len))
    mask = torch.ones_like(ids)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.perf_counter()
    if plan.trains:
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for _ in range(STEPS):
            model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        model.eval()
        model.generate(ids, attention_mask=mask, max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    return {"peak_bytes": peak_kib * 1024, "step_s": (time.perf_counter() - start) / STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(Plan(**json.loads(options.one)))))
        return
    shape = known_shape(MODEL)
    assert shape is not None
    rows: list[dict[str, Any]] = []
    for plan in QUICK if options.quick else (*FITTED, *CHECKED):
        found = measure(plan)
        predicted = memory(shape, plan, "cpu").total
        error = predicted / found["peak_bytes"] - 1
        rows.append({**asdict(plan), "checked": plan in CHECKED, **found, "predicted_bytes": predicted, "error": error})
        what = f"{plan.method} {plan.targets} {plan.dtype} b{plan.batch} s{plan.seq_len}"
        what += " checkpointing" if plan.trains and plan.checkpointing else ""
        print(
            f"{what:45s} measured {found['peak_bytes'] / 1e9:6.2f} GB, predicted {predicted / 1e9:6.2f} GB,"
            f" {error:+.0%}, {found['step_s']:.1f} s a step",
            file=sys.stderr,
        )
    errors = [abs(row["error"]) for row in rows]
    result = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
        "commit": _commit(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "worst_checked_error": max((abs(row["error"]) for row in rows if row["checked"]), default=None),
        "within_target": sum(error <= TARGET for error in errors),
        "n": len(errors),
    }
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, check=False, text=True)
    return done.stdout.strip() or "none"


if __name__ == "__main__":
    main()

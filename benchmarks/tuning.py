"""How fast and how good tuning is: LoRA against a plain PEFT loop, heads, unfreezing, learning curves.

    python -m benchmarks.tuning --data FOLDER [--parts speed,lora,head,unfreeze,curve,scores] [--seed 0]

FOLDER holds train.jsonl and test.jsonl of a closed label set (BANKING77 in our figures); for `scores` of any set, with
corpus.jsonl where its rows name `context_ids` (they are then asked with passages, as `tune --context` trains). The plain loop is what a
PEFT tutorial shows: bf16 base, fp32 adapters, batches of 8 shuffled rows padded to the longest, the model's own loss
over full logits. It trains on the same rows, the same number of times, with the same rate and schedule, in the same
process. Tokens are those of the rows (prompt and answer), counted alike on both sides, so tokens/s compares rows/s.
Each part is written to benchmarks/results/tuning.json as it ends; the last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.cli import _quiet_dependencies
from core.files import read_json, write_json
from core.models import local_folder
from core.progress import say
from core.rows import Row, read_rows
from core.settings import UseCase
from core.stats import wilson
from core.workspace import Workspace
from tuning.recipe import HeadRecipe, LoraRecipe, SettledLora, settle

RESULTS = Path(__file__).parent / "results" / "tuning.json"
MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
PILOT_ROWS, TEST_ROWS = 200, 300
CURVE = (50, 100, 200, 500, 1000)
PLAIN_BATCH = 8
ROUNDS = 20
SCORE_TOKENS = 120_000
HIDDEN = 576
"""Of the starter model."""


def lora(train: list[Row], test: list[Row], seed: int) -> dict[str, Any]:
    """Pilot-size LoRA: ours and the plain loop, speed and held-out score at equal rows."""
    import torch

    from tuning.batches import shared_prefix
    from tuning.examples import TrainingTokenizer, make_example
    from tuning.forward import SupervisedModel
    from tuning.lora import evaluate, train_adapter

    base = local_folder("smollm2-135m-instruct", MODELS)
    tokenizer = TrainingTokenizer(base)
    rows = random.Random(seed).sample(train, PILOT_ROWS)
    examples = [make_example(row, tokenizer, "") for row in rows]
    held_out = [make_example(row, tokenizer, "") for row in random.Random(seed + 1).sample(test, TEST_ROWS)]
    pad = tokenizer.end_of_turn

    def score(model: Any) -> dict[str, Any]:
        loss, exact = evaluate(
            SupervisedModel(model.get_base_model(), held_out[0].ids[: shared_prefix(held_out)]), held_out, 512
        )
        return {"loss": loss, "accuracy": asdict(wilson(round(exact * TEST_ROWS), TEST_ROWS))}

    recipe = settle(LoraRecipe(seed=seed), len(examples), HIDDEN)
    with tempfile.TemporaryDirectory() as state:
        start, cpu = time.perf_counter(), time.process_time()
        ours = train_adapter(base, examples, [], recipe, Path(state))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        speeds = [json.loads(line)["tokens_per_s"] for line in (Path(state) / "metrics.jsonl").read_text().splitlines()]
    found = {
        "rows": PILOT_ROWS,
        "recipe": recipe.model_dump(mode="json"),
        "load_average": os.getloadavg()[0],
        "bf16_matmul_gflops": matmul_gflops(),
        "ours": {
            "wall_s": wall,
            "cpu_s": cpu,
            "tokens": ours.progress.tokens,
            "tokens_per_s": ours.progress.tokens / ours.progress.seconds,
            "tokens_per_s_p50": statistics.median(speeds),
            "shared_prefix": ours.prefix,
            **score(ours.model),
        },
    }
    del ours
    plain, figures = _plain_loop(base, examples, recipe, pad)
    found["plain"] = figures | score(plain)
    found["speedup"] = found["ours"]["tokens_per_s"] / figures["tokens_per_s"]
    found["threads"] = torch.get_num_threads()
    return found


def _plain_loop(base: Path, examples: list[Any], recipe: SettledLora, pad: int) -> tuple[Any, dict[str, Any]]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

    torch.manual_seed(recipe.seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    per_epoch = -(-len(examples) // PLAIN_BATCH)
    steps = round(per_epoch * recipe.epochs)
    schedule = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    rng = random.Random(recipe.seed)
    order: list[int] = []
    tokens, speeds = 0, []
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.sample(range(len(examples)), len(examples))
        before = time.perf_counter()
        at = step % per_epoch * PLAIN_BATCH
        batch = [examples[i] for i in order[at : at + PLAIN_BATCH]]
        seen = _plain_step(model, parameters, optimizer, batch, pad, recipe.max_grad_norm)
        schedule.step()
        tokens += seen
        speeds.append(seen / (time.perf_counter() - before))
        if step % 10 == 9:
            say(f"plain loop: {step + 1}/{steps} steps, {tokens / (time.perf_counter() - start):.0f} tokens/s")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return model, {
        "wall_s": wall,
        "cpu_s": cpu,
        "tokens": tokens,
        "tokens_per_s": tokens / wall,
        "tokens_per_s_p50": statistics.median(speeds),
    }


def speed(train: list[Row], test: list[Row], seed: int) -> dict[str, Any]:
    """Tokens/s of both, step by step in turn, so that what else the machine does weighs on both alike."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tuning.batches import shared_prefix
    from tuning.examples import TrainingTokenizer, make_example
    from tuning.flat import FlatWeights
    from tuning.forward import SupervisedModel
    from tuning.lora import _model_with_adapter, _step

    base = local_folder("smollm2-135m-instruct", MODELS)
    tokenizer = TrainingTokenizer(base)
    examples = [make_example(row, tokenizer, "") for row in random.Random(seed).sample(train, PILOT_ROWS)]
    recipe = settle(LoraRecipe(seed=seed), len(examples), HIDDEN)
    model = _model_with_adapter(base, recipe, torch.device("cpu"), 100)
    weights = FlatWeights((p for p in model.parameters() if p.requires_grad), 0.0)
    losses = SupervisedModel(model.get_base_model(), examples[0].ids[: shared_prefix(examples)])
    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    ).train()
    parameters = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)

    def ours(batch: list[Any]) -> None:
        for i in range(0, len(batch), recipe.batch_rows):
            _step(losses, weights, [batch[i : i + recipe.batch_rows]], recipe.learning_rate, recipe)

    def theirs(batch: list[Any]) -> None:
        _plain_step(plain, parameters, optimizer, batch, tokenizer.end_of_turn, recipe.max_grad_norm)

    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(ROUNDS + 2):
        at = turn * PLAIN_BATCH % (len(examples) - PLAIN_BATCH)
        batch = examples[at : at + PLAIN_BATCH]
        tokens = sum(len(example.ids) for example in batch)
        for name, step in (("ours", ours), ("plain", theirs)):
            start = time.perf_counter()
            step(batch)
            if turn >= 2:  # the first ones warm up
                rates[name].append(tokens / (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "batch_rows": {"ours": recipe.batch_rows, "plain": PLAIN_BATCH},
        "load_average": os.getloadavg()[0],
        "tokens_per_s_p50": medians,
        "tokens_per_s_best": {name: max(found) for name, found in rates.items()},
        "speedup": medians["ours"] / medians["plain"],
        "bf16_matmul_gflops": matmul_gflops(),
    }


def _plain_step(model: Any, parameters: list[Any], optimizer: Any, batch: list[Any], pad: int, most: float) -> int:
    """One step of the plain loop; the tokens it saw."""
    import torch

    width = max(len(e.ids) for e in batch)
    ids = torch.tensor([[*e.ids, *[pad] * (width - len(e.ids))] for e in batch])
    seen = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in batch])
    labels = torch.tensor([[-100] * e.prompt + list(e.ids[e.prompt :]) + [-100] * (width - len(e.ids)) for e in batch])
    loss = model(input_ids=ids, attention_mask=seen, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, most)
    optimizer.step()
    optimizer.zero_grad()
    return int(seen.sum())


def matmul_gflops() -> dict[str, float]:
    """Best of 20 products [512, 576] x [576, 1536], the shape of the starter model's wide layers, by number format."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = torch.randn(512, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
        times = []
        for _ in range(21):
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            times.append(time.perf_counter() - start)
        found[str(dtype)] = 2 * 512 * 576 * 1536 / min(times[1:]) / 1e9
    return found


def head(train: list[Row], test: list[Row], seed: int) -> dict[str, Any]:
    """Heads on 20 rows a label and on all rows, features computed anew: seconds, and accuracy on all test rows."""
    by_label: dict[str, list[Row]] = {}
    for row in random.Random(seed).sample(train, len(train)):
        by_label.setdefault(row.output, []).append(row)
    few = [row for rows in by_label.values() for row in rows[:20]]
    return {str(len(rows)): _head(rows, test, HeadRecipe(seed=seed)) for rows in (few, train)}


def unfreeze(train: list[Row], test: list[Row], seed: int) -> dict[str, Any]:
    """Gradual unfreezing on all rows."""
    return _head(train, test, HeadRecipe(seed=seed, unfreeze=True))


def curve(train: list[Row], test: list[Row], seed: int) -> dict[str, Any]:
    """Both methods at growing numbers of rows, drawn at random; each set holds the ones before it."""
    from tuning.batches import shared_prefix
    from tuning.examples import TrainingTokenizer, make_example
    from tuning.forward import SupervisedModel
    from tuning.lora import evaluate, train_adapter

    base = local_folder("smollm2-135m-instruct", MODELS)
    tokenizer = TrainingTokenizer(base)
    order = random.Random(seed).sample(train, max(CURVE))
    held_out = [make_example(row, tokenizer, "") for row in random.Random(seed + 1).sample(test, TEST_ROWS)]
    found: dict[str, Any] = {"head": {}, "lora": {}}
    for n in CURVE:
        found["head"][str(n)] = _head(order[:n], test, HeadRecipe(seed=seed))
        examples = [make_example(row, tokenizer, "") for row in order[:n]]
        with tempfile.TemporaryDirectory() as state:
            start = time.perf_counter()
            model = train_adapter(base, examples, [], settle(LoraRecipe(seed=seed), n, HIDDEN), Path(state)).model
            wall = time.perf_counter() - start
        supervised = SupervisedModel(model.get_base_model(), held_out[0].ids[: shared_prefix(held_out)])
        _, exact = evaluate(supervised, held_out, 512)
        found["lora"][str(n)] = {"wall_s": wall, "accuracy": asdict(wilson(round(exact * TEST_ROWS), TEST_ROWS))}
    return found


def scores(train: list[Row], test: list[Row], seed: int, corpus: dict[str, str] | None = None) -> dict[str, Any]:
    """Answers word for word before and after one epoch of LoRA, at most SCORE_TOKENS training tokens."""
    from transformers import AutoModelForCausalLM

    from tuning.batches import shared_prefix
    from tuning.context import ContextRecipe, context_rows, own_passages
    from tuning.examples import TrainingTokenizer, make_example
    from tuning.forward import SupervisedModel
    from tuning.lora import evaluate, train_adapter

    base = local_folder("smollm2-135m-instruct", MODELS)
    tokenizer = TrainingTokenizer(base)
    train, test = random.Random(seed).sample(train, len(train)), random.Random(seed + 1).sample(test, 200)
    if corpus is not None:
        shown = [replace(row, context=tuple(corpus[id] for id in row.context_ids)) for row in [*train, *test]]
        made = context_rows(
            shown, own_passages(shown), ContextRecipe(gold_share=1.0, most_distractors=1, seed=seed)
        ).rows
        train, test = made[: len(train)], made[len(train) :]
    examples, tokens = [], 0
    for row in train:
        examples.append(make_example(row, tokenizer, ""))
        tokens += len(examples[-1].ids)
        if tokens > SCORE_TOKENS:
            break
    held_out = [make_example(row, tokenizer, "") for row in test]
    prefix = held_out[0].ids[: shared_prefix(held_out)]

    def score(model: Any) -> dict[str, Any]:
        _, exact = evaluate(SupervisedModel(model, prefix), held_out, 512)
        return asdict(wilson(round(exact * len(held_out)), len(held_out)))

    before = score(AutoModelForCausalLM.from_pretrained(base, dtype=torch_dtype()))
    recipe = settle(LoraRecipe(seed=seed, epochs=1.0), len(examples), HIDDEN)
    with tempfile.TemporaryDirectory() as state:
        start = time.perf_counter()
        model = train_adapter(base, examples, [], recipe, Path(state)).model
        wall = time.perf_counter() - start
    after = score(model.get_base_model())
    return {"rows": len(examples), "tokens": tokens, "wall_s": wall, "exact_before": before, "exact_after": after}


def torch_dtype() -> Any:
    """The number format that training uses here."""
    import torch

    from tuning.device import fast_bfloat16

    return torch.bfloat16 if fast_bfloat16(torch.device("cpu")) else torch.float32


def _head(rows: list[Row], test: list[Row], recipe: HeadRecipe) -> dict[str, Any]:
    from tuning.head_engine import load_head
    from tuning.train import train_head

    home = Path(tempfile.mkdtemp())
    try:
        (home / "models").symlink_to(MODELS)
        workspace = Workspace(home)
        start, cpu = time.perf_counter(), time.process_time()
        report = train_head(home / "head", UseCase(name="bench"), workspace, rows, recipe)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        engine = load_head(report.folder, workspace.models)
        best = engine.probabilities([row.input for row in test]).argmax(axis=1)
        right = sum(engine.labels[i] == row.output for i, row in zip(best, test, strict=True))
        return {
            "rows": len(rows),
            "wall_s": wall,
            "cpu_s": cpu,
            "load_average": os.getloadavg()[0],
            "accuracy": asdict(wilson(right, len(test))),
            "scores": report.scores,
        }
    finally:
        shutil.rmtree(home)


PARTS = {"speed": speed, "lora": lora, "head": head, "unfreeze": unfreeze, "curve": curve, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default="lora,head")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    _quiet_dependencies()
    train = read_rows(arguments.data / "train.jsonl", "training")
    test = read_rows(arguments.data / "test.jsonl", "evaluation")
    done = {}
    for part in arguments.parts.split(","):
        more: dict[str, Any] = {}
        corpus = arguments.data / "corpus.jsonl"
        if part == "scores" and corpus.exists():
            documents = map(json.loads, corpus.read_text(encoding="utf-8").splitlines())
            more["corpus"] = {d.get("id") or d["_id"]: d["text"] for d in documents}
        measured = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "scikit-learn")},
            **PARTS[part](train, test, arguments.seed, **more),
        }
        found = read_json(RESULTS) if RESULTS.exists() else {}
        if part == "scores":
            measured = found.get(part, {}) | {arguments.data.name: measured}
        done[part] = found[part] = measured
        write_json(RESULTS, found)
    print(json.dumps(done))


if __name__ == "__main__":
    main()

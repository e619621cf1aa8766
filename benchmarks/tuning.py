"""How fast and how good tuning is: LoRA against a plain PEFT loop and TRL, heads, unfreezing, learning curves.

    python -m benchmarks.tuning --data FOLDER [--parts speed,lora,head,unfreeze,curve,scores,half_hour] [--tiny] [--seed 0]

FOLDER holds train.jsonl and test.jsonl of a closed label set (BANKING77 in our figures); for `scores` of any set, with
corpus.jsonl where its rows name `context_ids` (they are then asked with passages, as `tune --context` trains). The
peers are in benchmarks/tuning_peers.py; they train on the same rows, the same number of times, with the same rate and
schedule, in the same process. Tokens are those of the rows (prompt and answer), counted alike on all sides, so tokens/s
compares rows/s.

Every training is a step whose figures are kept in --home as it ends; a re-run goes on from there. Each part is written
to benchmarks/results/tuning.json as it ends (with --tiny, which only tries that all parts run, to tuning.json in
--home); the last line on stdout is one JSON document.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tuning_peers import BATCH, Plain, plain_loop, sft_trainer
from core.cli import _quiet_dependencies
from core.files import read_json, write_json
from core.models import local_folder
from core.progress import say
from core.rows import Row, read_rows
from core.settings import UseCase
from core.stats import wilson
from core.workspace import Workspace
from tuning.recipe import HeadRecipe, LoraRecipe, SettledLora, settle

if TYPE_CHECKING:
    from tuning.examples import Example
    from tuning.lora import Trained

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tuning.json"
MODELS = ROOT / ".cache" / "models"
STARTER = "smollm2-135m-instruct"
HIDDEN = 576
"""Of the starter model."""


@dataclass(frozen=True)
class Size:
    pilot_rows: int = 200
    test_rows: int = 300
    curve: tuple[int, ...] = (50, 100, 200, 500, 1000)
    rounds: int = 20
    score_tokens: int = 120_000
    score_rows: int = 200
    lora_s: float = 1800.0
    """Longest training of `half_hour`."""
    epochs: float | None = None
    """None: the recipe's own."""


TINY = Size(8, 8, (8, 16), 2, 600, 6, 5.0, 1.0)


@dataclass(frozen=True)
class Work:
    """The data of a run, and the figures of its steps so far."""

    train: list[Row]
    test: list[Row]
    seed: int
    size: Size
    home: Path
    corpus: dict[str, str] | None

    def once(self, step: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `measure` found, from `home` where it is known."""
        path = self.home / f"{step}.json"
        if not path.exists():
            say(f"\n== {step}")
            write_json(path, measure() | {"load_average": round(os.getloadavg()[0], 1)})
        return dict(read_json(path))

    def recipe(self, rows: int, **values: Any) -> SettledLora:
        return settle(LoraRecipe(**{"seed": self.seed, "epochs": self.size.epochs, **values}), rows, HIDDEN)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        from tuning.examples import TrainingTokenizer, make_example

        tokenizer = TrainingTokenizer(local_folder(STARTER, MODELS))
        return [make_example(row, tokenizer, "") for row in rows]

    def held_out(self) -> list[Example]:
        return self.examples(random.Random(self.seed + 1).sample(self.test, self.size.test_rows))

    def score(self, causal: Any, held_out: Sequence[Example]) -> dict[str, Any]:
        """Loss and exact answers of a transformers model, with the interval."""
        from tuning.batches import shared_prefix
        from tuning.forward import SupervisedModel
        from tuning.lora import evaluate

        prefix = held_out[0].ids[: shared_prefix(held_out)]
        loss, exact = evaluate(SupervisedModel(causal, prefix), held_out, 512)
        return {"loss": loss, "accuracy": asdict(wilson(round(exact * len(held_out)), len(held_out)))}


def train(examples: Sequence[Example], dev: Sequence[Example], recipe: SettledLora) -> tuple[Trained, dict[str, Any]]:
    """A LoRA training by our recipe, and its figures."""
    from tuning.lora import train_model

    with tempfile.TemporaryDirectory() as state:
        start, cpu = time.perf_counter(), time.process_time()
        trained = train_model(local_folder(STARTER, MODELS), examples, dev, recipe, Path(state))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows = map(json.loads, (Path(state) / "metrics.jsonl").read_text().splitlines())
        speeds = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    at = trained.progress
    return trained, {
        "wall_s": wall,
        "cpu_s": cpu,
        "tokens": at.tokens,
        "tokens_per_s": at.tokens / (at.seconds - at.evaluation_seconds),
        "tokens_per_s_p50": statistics.median(speeds),
        "shared_prefix": trained.prefix,
        "steps": at.step,
        "recipe": recipe.model_dump(mode="json"),
    }


def lora(work: Work) -> dict[str, Any]:
    """Pilot-size LoRA: speed and held-out score at equal rows, of our defaults, ours with the plain loop's batches
    (`alike`), the plain loop, and TRL's trainer."""
    import torch

    rows = random.Random(work.seed).sample(work.train, work.size.pilot_rows)
    base = local_folder(STARTER, MODELS)

    def ours(**values: Any) -> dict[str, Any]:
        examples = work.examples(rows)
        trained, figures = train(examples, [], work.recipe(len(rows), **values))
        return figures | work.score(trained.learner.causal, work.held_out())

    def plain() -> dict[str, Any]:
        model, figures = plain_loop(base, work.examples(rows), work.recipe(len(rows)))
        return figures | work.score(model.get_base_model(), work.held_out())

    def trl() -> dict[str, Any]:
        tokens = sum(len(example.ids) for example in work.examples(rows))
        model, figures = sft_trainer(base, rows, tokens, work.recipe(len(rows)))
        return figures | work.score(model.get_base_model(), work.held_out())

    threads = torch.get_num_threads()
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": ours,
        "alike": partial(ours, batch_rows=BATCH),
        "plain": plain,
        "trl": trl,
    }
    found = {name: work.once(f"lora-{name}-{threads}-threads", step) for name, step in steps.items()}
    speed = {name: figures["tokens_per_s"] for name, figures in found.items()}
    return {
        "rows": len(rows),
        "threads": threads,
        "bf16_matmul_gflops": matmul_gflops(),
        **found,
        "speedup": speed["ours"] / speed["plain"],
        "speedup_alike": speed["alike"] / speed["plain"],
        "speedup_over_trl": speed["ours"] / speed["trl"],
    }


def speed(work: Work) -> dict[str, Any]:
    """Tokens/s of ours, with our batches and with the plain loop's, and of the plain loop, in turn over the same rows, so
    that what else the machine does weighs on all alike."""
    return work.once("speed", lambda: _speed(work))


def _speed(work: Work) -> dict[str, Any]:
    import torch

    from tuning.batches import shared_prefix
    from tuning.flat import FlatWeights
    from tuning.forward import SupervisedModel
    from tuning.learner import make_learner
    from tuning.lora import _step
    from tuning.processes import Team

    base = local_folder(STARTER, MODELS)
    examples = work.examples(random.Random(work.seed).sample(work.train, max(2 * BATCH, work.size.pilot_rows)))
    recipe = work.recipe(len(examples))
    learner = make_learner(base, recipe, torch.device("cpu"), 100)
    weights = FlatWeights(learner.parameters, 0.0)
    losses = SupervisedModel(learner.causal, examples[0].ids[: shared_prefix(examples)])
    peer = Plain(base, recipe)

    def ours(batch: list[Example], batch_rows: int) -> None:
        for i in range(0, len(batch), batch_rows):
            part = batch[i : i + batch_rows]
            _step(losses, weights, [part], sum(e.supervised for e in part), recipe.learning_rate, recipe, Team())

    steps: dict[str, Callable[[list[Example]], object]] = {
        "ours": partial(ours, batch_rows=recipe.batch_rows),
        "alike": partial(ours, batch_rows=BATCH),
        "plain": peer.step,
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(work.size.rounds + 2):
        at = turn * BATCH % (len(examples) - BATCH)
        batch = examples[at : at + BATCH]
        tokens = sum(len(example.ids) for example in batch)
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if turn >= 2:  # the first ones warm up
                rates[name].append(tokens / (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "threads": torch.get_num_threads(),
        "rounds": work.size.rounds,
        "batch_rows": {"ours": recipe.batch_rows, "alike": BATCH, "plain": BATCH},
        "tokens_per_s_p50": medians,
        "tokens_per_s_best": {name: max(found) for name, found in rates.items()},
        "speedup": medians["ours"] / medians["plain"],
        "speedup_alike": medians["alike"] / medians["plain"],
        "bf16_matmul_gflops": matmul_gflops(),
    }


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


def head(work: Work) -> dict[str, Any]:
    """Heads on 20 rows a label and on all rows, features computed anew: seconds, and accuracy on all test rows."""
    by_label: dict[str, list[Row]] = {}
    for row in random.Random(work.seed).sample(work.train, len(work.train)):
        by_label.setdefault(row.output, []).append(row)
    few = [row for rows in by_label.values() for row in rows[:20]]
    found = {}
    for rows in (few, work.train):
        found[str(len(rows))] = work.once(
            f"head-{len(rows)}", partial(_head, rows, work.test, HeadRecipe(seed=work.seed))
        )
    return found


def unfreeze(work: Work) -> dict[str, Any]:
    """Gradual unfreezing on all rows."""
    recipe = HeadRecipe(seed=work.seed, unfreeze=True)
    return work.once("unfreeze", lambda: _head(work.train, work.test, recipe))


def curve(work: Work) -> dict[str, Any]:
    """Both methods at growing numbers of rows, drawn at random; each set holds the ones before it."""
    order = random.Random(work.seed).sample(work.train, max(work.size.curve))

    def one(n: int) -> dict[str, Any]:
        trained, figures = train(work.examples(order[:n]), [], work.recipe(n))
        return figures | work.score(trained.learner.causal, work.held_out())

    found: dict[str, Any] = {"head": {}, "lora": {}}
    for n in work.size.curve:
        recipe = HeadRecipe(seed=work.seed)
        found["head"][str(n)] = work.once(f"curve-head-{n}", partial(_head, order[:n], work.test, recipe))
        found["lora"][str(n)] = work.once(f"curve-lora-{n}", partial(one, n))
    return found


def half_hour(work: Work) -> dict[str, Any]:
    """LoRA on all rows, four times or for half an hour at most, the weights that did best on 100 held-out training rows."""

    def measure() -> dict[str, Any]:
        from tuning.checks import dev_split

        examples, dev = dev_split(work.examples(work.train), 0.1, 100, work.seed)
        trained, figures = train(
            examples, dev, work.recipe(len(examples), epochs=work.size.epochs or 4.0, max_seconds=work.size.lora_s)
        )
        best = {"best_step": trained.progress.best_step, "stopped": trained.progress.stopped}
        return figures | best | work.score(trained.learner.causal, work.held_out())

    return work.once("half_hour", measure)


def scores(work: Work) -> dict[str, Any]:
    """Answers word for word before and after one epoch of LoRA, at most `score_tokens` training tokens."""
    from tuning.context import ContextRecipe, context_rows, own_passages

    train_rows = random.Random(work.seed).sample(work.train, len(work.train))
    test = random.Random(work.seed + 1).sample(work.test, work.size.score_rows)
    corpus = work.corpus
    if corpus is not None:
        shown = [replace(row, context=tuple(corpus[id] for id in row.context_ids)) for row in [*train_rows, *test]]
        recipe = ContextRecipe(gold_share=1.0, most_distractors=1, seed=work.seed)
        made = context_rows(shown, own_passages(shown), recipe).rows
        train_rows, test = made[: len(train_rows)], made[len(train_rows) :]
    taught: list[Example] = []
    for example in work.examples(train_rows):
        taught.append(example)
        if sum(len(e.ids) for e in taught) > work.size.score_tokens:
            break

    def before() -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(local_folder(STARTER, MODELS), dtype=torch_dtype())
        return work.score(model, work.examples(test))

    def after() -> dict[str, Any]:
        trained, figures = train(taught, [], work.recipe(len(taught), epochs=1.0))
        return figures | work.score(trained.learner.causal, work.examples(test))

    first, then = work.once("scores-before", before), work.once("scores-after", after)
    figures = {key: then[key] for key in ("tokens", "wall_s", "cpu_s", "recipe")}
    return {"rows": len(taught), **figures, "exact_before": first["accuracy"], "exact_after": then["accuracy"]}


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
            "accuracy": asdict(wilson(right, len(test))),
            "scores": report.scores,
        }
    finally:
        shutil.rmtree(home)


PARTS = {
    "speed": speed,
    "lora": lora,
    "head": head,
    "unfreeze": unfreeze,
    "curve": curve,
    "scores": scores,
    "half_hour": half_hour,
}


def _some(rows: list[Row]) -> list[Row]:
    return random.Random(0).sample(rows, min(40, len(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default="lora,head", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--home", type=Path, default=ROOT / ".cache" / "tuning-benchmark", help="where steps are kept")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that all parts run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    _quiet_dependencies()
    form = "tiny" if arguments.tiny else "full"
    home = arguments.home / form / f"{arguments.data.name}-{arguments.seed}"
    rows, test = (
        read_rows(arguments.data / "train.jsonl", "training"),
        read_rows(arguments.data / "test.jsonl", "evaluation"),
    )
    corpus = None
    if (documents := arguments.data / "corpus.jsonl").exists():
        found = map(json.loads, documents.read_text(encoding="utf-8").splitlines())
        corpus = {d.get("id") or d["_id"]: d["text"] for d in found}
    if arguments.tiny:
        labels = sorted({row.output for row in rows})
        few = labels[:4] if len(labels) <= 200 else labels
        rows, test = (_some([row for row in some if row.output in few or len(labels) > 200]) for some in (rows, test))
    work = Work(rows, test, arguments.seed, TINY if arguments.tiny else Size(), home, corpus)
    results = home / "tuning.json" if arguments.tiny else RESULTS
    done = {}
    for part in parts:
        measured = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl", "scikit-learn")},
            **PARTS[part](work),
        }
        kept = read_json(results) if results.exists() else {}
        if part == "scores":
            measured = kept.get(part, {}) | {arguments.data.name: measured}
        if part == "lora":
            measured = kept.get(part, {}) | {str(measured["threads"]): measured}
        done[part] = kept[part] = measured
        write_json(results, kept)
    print(json.dumps(done))


if __name__ == "__main__":
    main()

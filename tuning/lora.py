"""Teaching a language model, top to bottom: what learns, steps, evaluations on held-out rows, the best weights.

The same for a LoRA adapter and for all of the model's weights, in one process or in several (tuning/processes.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import ConfigError
from core.files import append_jsonl
from core.progress import progress, say
from tuning.batches import plan_epoch, shared_prefix, split
from tuning.checkpoint import load_checkpoint, save_checkpoint
from tuning.device import pick_device
from tuning.examples import Example
from tuning.flat import FlatWeights
from tuning.forward import SupervisedModel
from tuning.general import General, right_answers
from tuning.interrupt import interruptible
from tuning.learner import Learner, make_learner
from tuning.processes import Team
from tuning.recipe import Settled, SettledLora
from tuning.tracking import Track

EVALUATIONS = 8
"""On the dev rows, over the whole training."""
LAST_GOOD = "last_good"
"""Folder, in the training's state, that a training leaves when it is stopped or fails."""
_PROBE = 6
"""Steps after which the speed is known well enough to plan for a time limit."""
PASS_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of one forward pass where the recipe leaves it open. On a CPU the products are at full speed from a few
hundred rows on, while attention between all of a pass's tokens grows with its square."""


@dataclass
class Progress:
    """Where a training stands; goes into every checkpoint."""

    steps: int
    """Planned."""
    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    best_loss: float = math.inf
    without_gain: int = 0
    stopped: str = ""
    """Why training ended before the planned steps; empty when it did not."""
    tokens: int = 0
    """Of the rows seen, prompt and answer; a shared prefix counts in every row."""
    seconds: float = 0.0
    """Spent in steps and evaluations, over all attempts."""
    evaluation_seconds: float = 0.0
    general_before: list[bool] | None = None
    """Which of the general questions the base model answers; None where they are not asked."""


@dataclass(frozen=True)
class Trained:
    learner: Learner
    """Best weights in place."""
    progress: Progress
    parameters: int
    """That learned."""
    dtype: str
    prefix: int
    general_after: list[bool] | None
    initial: Path | None
    """PEFT folder of the adapter the training began with, where that was a change to the base model already."""

    def save(self, folder: Path) -> None:
        """Write an adapter into `folder` as plain PEFT reads it, or a whole model."""
        self.learner.save(folder, self.initial)


def train_model(
    base: Path,
    train: Sequence[Example],
    dev: Sequence[Example],
    recipe: Settled,
    state: Path,
    general: General | None = None,
    team: Team | None = None,
    track: Track | None = None,
) -> Trained:
    """The model in the folder `base` fitted to `train`, by an adapter or as a whole; the weights that did best on `dev`.

    Deterministic for one machine, thread count and set of versions: a training that was stopped or killed and goes on
    ends with the same weights as one that was not. `state` is its folder: checkpoint.safetensors, metrics.jsonl.

    Args:
        team: the processes that share the rows of each step. Every one ends with the same weights.
        track: is given each row of metrics.jsonl too.

    Raises:
        ConfigError: the loss is no longer a number; the best weights are in `state`/last_good.
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written, and the best weights to `state`/last_good.
    """
    team = team or Team()
    device = pick_device(recipe.device)
    learner = make_learner(base, recipe, device, longest=max(len(e.ids) for e in [*train, *dev]), team=team)
    initial = None
    if isinstance(recipe, SettledLora) and recipe.init != "zero" and team.leads:
        initial = learner.save_initial(state / "initial")
    weights = FlatWeights(learner.parameters, recipe.weight_decay)
    losses = _supervised(learner.causal, train, dev, recipe.neftune)
    budget = _budget(losses, train, recipe, device)
    lengths = [len(example.ids) - losses.prefix for example in train]

    spare = [min(train, key=lambda example: len(example.ids))]

    per_epoch = math.ceil(len(train) / recipe.batch_rows)
    at = Progress(steps=max(1, round(per_epoch * recipe.epochs)))
    best = weights.master.detach().clone()
    checkpoint = load_checkpoint(state / "checkpoint.safetensors")
    if checkpoint is not None:
        tensors, saved = checkpoint
        at = Progress(**saved)
        best = tensors.pop("best").to(device)
        weights.load_state(tensors)
        say(f"going on after step {at.step} of {at.steps}")
    general = general if team.leads or team.shards else None
    if general is not None and at.general_before is None:
        # Nothing has been learned and an adapter begins as no change at all, so this is the base model.
        at.general_before = right_answers(learner.causal, general, budget, packed=budget > 1)

    def save() -> None:
        if team.leads:
            save_checkpoint(state / "checkpoint.safetensors", {**weights.state(), "best": best.cpu()}, asdict(at))

    def keep_good() -> None:
        if team.leads and at.best_step:
            weights.put(best)
            learner.save(state / LAST_GOOD, initial)

    def note(row: dict[str, Any]) -> None:
        if team.leads:
            append_jsonl(state / "metrics.jsonl", row)
            if track is not None:
                track(row)

    saved_at = time.monotonic()
    epoch, plan = -1, []
    with interruptible() as stop_asked, progress("training", at.steps, "steps") as advance:
        advance(at.step)
        while at.step < at.steps and not at.stopped:
            start = time.perf_counter()
            if at.step // per_epoch != epoch:
                epoch = at.step // per_epoch
                plan = plan_epoch(len(train), recipe.batch_rows, recipe.seed, epoch)
            rows = plan[at.step % per_epoch]
            parts = [[train[i] for i in part] for part in split(team.share(rows), lengths, budget)]
            supervised = sum(train[i].supervised for i in rows)
            torch.manual_seed(recipe.seed * 1_000_003 + at.step)
            loss, norm = _step(
                losses, weights, parts, supervised, _rate(at.step, at.steps, recipe), recipe, team, spare
            )
            if not (math.isfinite(loss) and math.isfinite(norm)):
                keep_good()
                raise ConfigError(_not_a_number(at, at.step + 1, recipe, state))
            at.step += 1
            step_tokens = sum(len(train[i].ids) for i in rows)
            at.tokens += step_tokens
            took = team.agreed(time.perf_counter() - start)
            at.seconds += took
            row = {"step": at.step, "loss": loss, "grad_norm": norm, "rate": _rate(at.step - 1, at.steps, recipe)}
            note(row | {"tokens_per_s": step_tokens / took})
            planned = at.steps
            _plan_for_time(at, recipe)

            if at.stopped or _evaluates(at.step, at.steps):
                start = time.perf_counter()
                better = _judge(losses, dev, at, recipe, budget, note, team)
                if better is None:
                    keep_good()
                    raise ConfigError(_not_a_number(at, at.step, recipe, state))
                if better:
                    best.copy_(weights.master)
                judged = team.agreed(time.perf_counter() - start)
                at.evaluation_seconds += judged
                at.seconds += judged
            advance(1, at.steps if at.steps != planned else None)
            stopping = team.agreed(stop_asked())
            if stopping or time.monotonic() - saved_at > recipe.checkpoint_seconds:
                save()
                saved_at = time.monotonic()
            if stopping:
                keep_good()
                raise KeyboardInterrupt
    weights.put(best)
    after = None if general is None else right_answers(learner.causal, general, budget, packed=budget > 1)
    dtype = str(learner.causal.dtype).removeprefix("torch.")
    return Trained(learner, at, weights.size, dtype, losses.prefix, after, initial)


def _supervised(causal: Any, train: Sequence[Example], dev: Sequence[Example], noise: float) -> SupervisedModel:
    """The model, asked with what all rows begin with run once."""
    return SupervisedModel(causal, train[0].ids[: shared_prefix([*train, *dev])], noise)


def _budget(losses: SupervisedModel, train: Sequence[Example], recipe: Settled, device: torch.device) -> int:
    """Tokens of one forward pass beside the prefix; 1 (each row for itself) where rows cannot stand in one sequence.

    That they can is tried before it is believed: two rows in one pass must have the loss of each for itself.
    """
    if not losses.can_pack(max(len(example.ids) for example in train)):
        say("this model's rows are run one by one: its layers keep more than plain keys and values")
        return 1
    probe = sorted(train, key=lambda example: len(example.ids))[:2]
    with losses.evaluating():
        together, apart = float(losses.loss(probe).total), sum(float(losses.loss([e]).total) for e in probe)
    if not math.isclose(together, apart, rel_tol=0.05):
        say(f"this model's rows are run one by one: in one sequence their loss is {together:.3f}, not {apart:.3f}")
        return 1
    return recipe.batch_tokens or PASS_TOKENS[device.type]


def _step(
    losses: SupervisedModel,
    weights: FlatWeights,
    parts: Sequence[Sequence[Example]],
    tokens: int,
    rate: float,
    recipe: Settled,
    team: Team,
    spare: Sequence[Example] = (),
) -> tuple[float, float]:
    """One optimizer step; the mean loss a supervised token, and the gradient's norm.

    Args:
        spare: rows to run, for nothing, as often as another process has more passes and cannot run the model alone.
        parts: the forward passes over this process's rows; none where it has no row.
        tokens: supervised ones of the step's rows, over all processes.
    """
    total = torch.zeros(1, dtype=torch.float64)
    for part in [*parts, *[spare] * (team.most(len(parts)) - len(parts))]:
        loss = losses.loss(part)
        counts = 0.0 if part is spare else 1.0
        (loss.total * counts / tokens).backward()  # type: ignore[no-untyped-call]
        weights.collect()
        total += counts * float(loss.total.detach())
    if team.size > 1:
        total = total.to(weights.gradient.device)
        team.add_up(total)
        team.add_up(weights.gradient)
    return float(total) / tokens, weights.step(rate, recipe.max_grad_norm)


def _rate(step: int, steps: int, recipe: Settled) -> float:
    """Learning rate of the 0-based `step`: linear warm-up, then linear decay to zero after the last step."""
    warm = max(1, round(recipe.warmup * steps))
    return recipe.learning_rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def _evaluates(step: int, steps: int) -> bool:
    return step == steps or step % max(1, steps // EVALUATIONS) == 0


def _judge(
    losses: SupervisedModel,
    dev: Sequence[Example],
    at: Progress,
    recipe: Settled,
    budget: int,
    note: Callable[[dict[str, Any]], None],
    team: Team,
) -> bool | None:
    """Evaluate on the dev rows; True when these weights are the best so far (always so without dev rows), None when
    the loss is no number."""
    if not dev:
        at.best_step = at.step
        return True
    loss, score = evaluate(losses, dev, budget, team)
    if not math.isfinite(loss):
        return None
    better = (score, -loss) > (at.best_score, -at.best_loss)
    gained = score > at.best_score or loss < at.best_loss
    note({"step": at.step, "dev_loss": loss, "dev_score": score, "best": better})
    say(
        f"step {at.step}/{at.steps}: dev loss {loss:.3f}, {score:.0%} of {len(dev)} dev answers word for word,"
        f" {at.tokens / at.seconds:.0f} tokens/s, {_left(at):.0f} s left"
    )
    if better:
        at.best_step, at.best_score, at.best_loss = at.step, score, loss
    at.without_gain = 0 if gained else at.without_gain + 1
    if at.without_gain >= recipe.patience and at.step < at.steps:
        at.stopped = f"no gain on the dev rows in {at.without_gain} evaluations"
    return better


def evaluate(
    losses: SupervisedModel, examples: Sequence[Example], batch_tokens: int, team: Team | None = None
) -> tuple[float, float]:
    """Mean loss a supervised token, and the share of examples that greedy decoding answers word for word."""
    team = team or Team()
    mine = team.share(range(len(examples)))
    lengths = [len(e.ids) - losses.prefix for e in examples]
    parts = split(mine, lengths, batch_tokens)
    with losses.evaluating():
        found = [losses.loss([examples[i] for i in part]) for part in parts]
        for _ in range(team.most(len(parts)) - len(parts)):
            losses.loss(examples[:1])
    sums = torch.tensor([[float(loss.total), loss.exact] for loss in found], dtype=torch.float64).reshape(-1, 2).sum(0)
    if team.size > 1:
        sums = sums.to(losses.device)
        team.add_up(sums)
    total, exact = sums.tolist()
    return total / sum(example.supervised for example in examples), exact / len(examples)


def _plan_for_time(at: Progress, recipe: Settled) -> None:
    """Once the speed is known, plan as many steps as `max_seconds` allows; the rate then decays over those."""
    if recipe.max_seconds is None:
        return
    if at.step == _PROBE:
        affordable = int(recipe.max_seconds / (at.seconds / at.step))
        if affordable < at.steps:
            say(f"{at.steps} steps would take {at.seconds / at.step * at.steps:.0f} s; planning {affordable}")
            at.steps = max(at.step + 1, affordable)
    if at.seconds > recipe.max_seconds and at.step < at.steps:
        at.stopped = f"the time limit of {recipe.max_seconds:.0f} s"


def _left(at: Progress) -> float:
    return (at.steps - at.step) * at.seconds / at.step


def _not_a_number(at: Progress, step: int, recipe: Settled, state: Path) -> str:
    kept = f"the weights of step {at.best_step} are in {state / LAST_GOOD}"
    good = kept if at.best_step else "no weights were judged good before, so none are kept"
    return (
        f"the loss is no longer a number at step {step} of {at.steps} (learning rate {recipe.learning_rate:g});"
        f" use a lower --lr; {good}"
    )

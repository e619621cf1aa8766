"""The LoRA recipe, top to bottom: model, adapter, steps, evaluations on held-out rows, the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import ConfigError
from core.files import append_jsonl
from core.progress import progress, say
from tuning import fused
from tuning.batches import plan_epoch, shared_prefix, split
from tuning.checkpoint import load_checkpoint, save_checkpoint
from tuning.device import fast_bfloat16, pick_device
from tuning.examples import Example
from tuning.flat import FlatWeights
from tuning.forward import SupervisedModel
from tuning.general import General, right_answers
from tuning.interrupt import interruptible
from tuning.recipe import SettledLora

EVALUATIONS = 8
"""On the dev rows, over the whole training."""
LAST_GOOD = "last_good"
"""PEFT folder, in the training's state, that a training leaves when it is stopped or fails."""
_PROBE = 6
"""Steps after which the speed is known well enough to plan for a time limit."""
PASS_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of one forward pass where the recipe leaves it open. On a CPU the products are at full speed from a few
hundred rows on, while attention between all of a pass's tokens grows with its square."""
SHORT = 512
"""Up to this many tokens a pass, plain attention beats torch's blocked one on a CPU, whose backward pass is slow
(1.35 times the tokens/s at 60 tokens, equal at 512); at 2,048 it has a third of its speed."""


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
    model: Any
    """The PEFT model, best weights in place."""
    progress: Progress
    parameters: int
    dev_rows: int
    dtype: str
    prefix: int
    general_after: list[bool] | None
    initial: Path | None
    """PEFT folder of the adapter a PiSSA training began with."""

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder` as plain PEFT reads it."""
        _save(self.model, folder, self.initial)


def train_adapter(
    base: Path,
    train: Sequence[Example],
    dev: Sequence[Example],
    recipe: SettledLora,
    state: Path,
    general: General | None = None,
) -> Trained:
    """A LoRA adapter for the model in the folder `base`, fitted to `train`, the weights that did best on `dev`.

    Deterministic for one machine, thread count and set of versions: a training that was stopped or killed and goes on
    ends with the same weights as one that was not. `state` is its folder: checkpoint.safetensors, metrics.jsonl.

    Raises:
        ConfigError: the loss is no longer a number; the best weights are in `state`/last_good.
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written, and the best weights to `state`/last_good.
    """
    device = pick_device(recipe.device)
    model = _model_with_adapter(base, recipe, device, longest=max(len(e.ids) for e in [*train, *dev]))
    initial = _keep_initial(model, state / "initial") if recipe.pissa else None
    weights = FlatWeights((p for p in model.parameters() if p.requires_grad), recipe.weight_decay)
    losses = _supervised(model, train, dev, recipe.neftune)
    budget = _budget(losses, train, recipe, device)
    lengths = [len(example.ids) - losses.prefix for example in train]

    per_epoch = math.ceil(len(train) / recipe.batch_rows)
    at = Progress(steps=max(1, round(per_epoch * recipe.epochs)))
    best = weights.master.clone()
    checkpoint = load_checkpoint(state / "checkpoint.safetensors")
    if checkpoint is not None:
        tensors, saved = checkpoint
        at = Progress(**saved)
        best = tensors.pop("best").to(device)
        weights.load_state(tensors)
        say(f"going on after step {at.step} of {at.steps}")
    if general is not None and at.general_before is None:
        # An adapter begins as no change at all, so this is the base model.
        at.general_before = right_answers(model.get_base_model(), general, budget, packed=budget > 1)

    def save() -> None:
        save_checkpoint(state / "checkpoint.safetensors", {**weights.state(), "best": best.cpu()}, asdict(at))

    saved_at = time.monotonic()
    epoch, plan = -1, []
    with interruptible() as stop_asked, progress("training", at.steps, "steps") as advance:
        advance(at.step)
        while at.step < at.steps and not at.stopped:
            start = time.perf_counter()
            if at.step // per_epoch != epoch:
                epoch = at.step // per_epoch
                plan = plan_epoch(lengths, recipe.batch_rows, budget, recipe.seed, epoch)
            parts = [[train[i] for i in part] for part in plan[at.step % per_epoch]]
            torch.manual_seed(recipe.seed * 1_000_003 + at.step)
            loss, norm = _step(losses, weights, parts, _rate(at.step, at.steps, recipe), recipe)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                _keep_good(model, weights, best, at, state, initial)
                raise ConfigError(_not_a_number(at, recipe, state))
            at.step += 1
            step_tokens = sum(len(example.ids) for part in parts for example in part)
            at.tokens += step_tokens
            took = time.perf_counter() - start
            at.seconds += took
            row = {"step": at.step, "loss": loss, "grad_norm": norm, "rate": _rate(at.step - 1, at.steps, recipe)}
            append_jsonl(state / "metrics.jsonl", row | {"tokens_per_s": step_tokens / took})
            _plan_for_time(at, recipe)

            if at.stopped or _evaluates(at.step, at.steps):
                start = time.perf_counter()
                if _judge(losses, dev, at, recipe, budget, state):
                    best.copy_(weights.master)
                at.evaluation_seconds += time.perf_counter() - start
                at.seconds += time.perf_counter() - start
            advance(1)
            stopping = stop_asked()
            if stopping or time.monotonic() - saved_at > recipe.checkpoint_seconds:
                save()
                saved_at = time.monotonic()
            if stopping:
                _keep_good(model, weights, best, at, state, initial)
                raise KeyboardInterrupt
    weights.put(best)
    after = None if general is None else right_answers(model.get_base_model(), general, budget, packed=budget > 1)
    dtype = str(model.dtype).removeprefix("torch.")
    return Trained(model, at, weights.size, len(dev), dtype, losses.prefix, after, initial)


def _model_with_adapter(base: Path, recipe: SettledLora, device: torch.device, longest: int) -> Any:
    """The base model, frozen, with a LoRA pair on every linear layer but the output layer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    fused.register_attention()
    attention = fused.ATTENTION if device.type == "cpu" and longest <= SHORT else "sdpa"
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=attention).to(device)
    if getattr(causal.config.get_text_config(), "attn_logit_softcapping", None):
        causal.set_attn_implementation("eager")  # the others leave the cap out
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_dora=recipe.dora,
        use_rslora=recipe.rslora,
        init_lora_weights="pissa_niter_4" if recipe.pissa else True,
    )
    torch.manual_seed(recipe.seed)
    model = get_peft_model(causal, config, autocast_adapter_dtype=False)
    fused.fuse_lora(model)
    model.train()
    return model


def _supervised(model: Any, train: Sequence[Example], dev: Sequence[Example], noise: float) -> SupervisedModel:
    """The model, asked with what all rows begin with run once."""
    return SupervisedModel(model.get_base_model(), train[0].ids[: shared_prefix([*train, *dev])], noise)


def _budget(losses: SupervisedModel, train: Sequence[Example], recipe: SettledLora, device: torch.device) -> int:
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
    losses: SupervisedModel, weights: FlatWeights, parts: Sequence[Sequence[Example]], rate: float, recipe: SettledLora
) -> tuple[float, float]:
    """One optimizer step over the rows of `parts`; the mean loss a supervised token, and the gradient's norm."""
    tokens = sum(example.supervised for part in parts for example in part)
    total = 0.0
    for part in parts:
        loss = losses.loss(part)
        (loss.total / tokens).backward()  # type: ignore[no-untyped-call]
        weights.collect()
        total += float(loss.total.detach())
    return total / tokens, weights.step(rate, recipe.max_grad_norm)


def _rate(step: int, steps: int, recipe: SettledLora) -> float:
    """Learning rate of the 0-based `step`: linear warm-up, then linear decay to zero after the last step."""
    warm = max(1, round(recipe.warmup * steps))
    return recipe.learning_rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def _evaluates(step: int, steps: int) -> bool:
    return step == steps or step % max(1, steps // EVALUATIONS) == 0


def _judge(
    losses: SupervisedModel, dev: Sequence[Example], at: Progress, recipe: SettledLora, budget: int, state: Path
) -> bool:
    """Evaluate on the dev rows; True when these weights are the best so far (always so without dev rows)."""
    if not dev:
        at.best_step = at.step
        return True
    loss, score = evaluate(losses, dev, budget)
    better = (score, -loss) > (at.best_score, -at.best_loss)
    gained = score > at.best_score or loss < at.best_loss
    append_jsonl(state / "metrics.jsonl", {"step": at.step, "dev_loss": loss, "dev_score": score, "best": better})
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


def evaluate(losses: SupervisedModel, examples: Sequence[Example], batch_tokens: int) -> tuple[float, float]:
    """Mean loss a supervised token, and the share of examples that greedy decoding answers word for word."""
    parts = split(range(len(examples)), [len(e.ids) - losses.prefix for e in examples], batch_tokens)
    with losses.evaluating():
        found = [losses.loss([examples[i] for i in part]) for part in parts]
    tokens = sum(loss.tokens for loss in found)
    return sum(float(loss.total) for loss in found) / tokens, sum(loss.exact for loss in found) / len(examples)


def _plan_for_time(at: Progress, recipe: SettledLora) -> None:
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


def _keep_good(
    model: Any, weights: FlatWeights, best: torch.Tensor, at: Progress, state: Path, initial: Path | None
) -> None:
    """Leave the best evaluated weights as a PEFT folder, for a training that ends before its time."""
    if at.best_step:
        weights.put(best)
        _save(model, state / LAST_GOOD, initial)


def _keep_initial(model: Any, folder: Path) -> Path:
    """The adapter as PiSSA made it, which is what has to be taken off again to get a change to the base model."""
    config = model.peft_config["default"]
    config.init_lora_weights, kind = True, config.init_lora_weights
    model.save_pretrained(folder, save_embedding_layers=False)
    config.init_lora_weights = kind
    return folder


def _save(model: Any, folder: Path, initial: Path | None) -> None:
    converted = {} if initial is None else {"path_initial_model_for_weight_conversion": str(initial)}
    model.save_pretrained(folder, save_embedding_layers=False, **converted)


def _not_a_number(at: Progress, recipe: SettledLora, state: Path) -> str:
    good = f"the weights of step {at.best_step} are in {state / LAST_GOOD}" if at.best_step else "no step was evaluated"
    return (
        f"the loss is no longer a number at step {at.step + 1} of {at.steps} (learning rate {recipe.learning_rate:g});"
        f" use a lower --lr; {good}"
    )

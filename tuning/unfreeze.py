"""Unfreezing: the encoder's layers learn too, from the top, for as long as that helps on held-out rows.

After ULMFiT (Howard & Ruder 2018): each stage trains more of the top layers, a lower layer at a lower rate, since it
holds what is general. The logistic head on frozen features is where it starts from and what it has to beat. Between the
weights that were and the weights that became, those that do best on the held-out rows are kept (Wortsman 2022, WiSE-FT):
on BANKING77 six tenths of the way had a dev loss of .217, all of it .245, the frozen encoder .240.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from core.progress import progress, say
from tuning.device import fast_bfloat16
from tuning.encoder import Encoder
from tuning.head import Head, Labels, Logits, add_words, calibrated_loss, fit_head, fit_temperature, stratified_folds
from tuning.interrupt import interruptible
from tuning.recipe import HeadRecipe
from tuning.unfreeze_point import Point, States, load_point, save_point
from tuning.words import count_words

POOL = 32
"""Batches whose texts are sorted together: wide enough that lengths meet, narrow enough to stay shuffled."""
WAYS = (1.0, 0.8, 0.6, 0.4)
"""How far towards the trained weights is tried."""
HEAD_RATE = 10.0
"""The head's learning rate, as a multiple of the top layer's."""


@dataclass(frozen=True)
class Stage:
    layers: int
    """Top layers that were trained; 0 is the frozen encoder."""
    correct: int
    way: float
    """How far from the frozen weights to those that training ended with, 0 to 1."""
    loss: float
    """On the dev rows, calibrated, nats a row. It decides: of 1,000 rows, a dozen right ones more or less is chance."""
    words: float
    """The share of the words' log odds (tuning/words.py) beside these logits, 0 for none."""


@dataclass(frozen=True)
class Unfrozen:
    encoder: Encoder
    """In fp32; its weights are the best stage's."""
    head: Head
    stages: tuple[Stage, ...]
    """The frozen encoder first."""
    best: Stage
    dev_rows: int


def unfreeze(
    folder: Path,
    texts: Sequence[str],
    answers: Sequence[str],
    features: Any,
    recipe: HeadRecipe,
    device: torch.device,
    state: Path | None = None,
) -> Unfrozen:
    """The encoder in `folder` and a head, trained together stage by stage; stage by stage while the dev loss falls.

    Args:
        features: of `texts` by the frozen encoder.
        state: folder of a checkpoint, from which a training that was stopped or killed goes on, to the same weights;
            None keeps none.

    Raises:
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
    """
    labels = tuple(sorted(set(answers)))
    y = np.array([labels.index(answer) for answer in answers], dtype=np.int64)
    held_out = stratified_folds(y, max(2, round(1 / recipe.dev_share)), recipe.seed) == 0
    train_texts = [text for text, out in zip(texts, held_out, strict=True) if not out]
    dev_texts = [text for text, out in zip(texts, held_out, strict=True) if out]
    y_train, y_dev = y[~held_out], y[held_out]
    frozen = fit_head(features[~held_out], [labels[i] for i in y_train], recipe, train_texts).head
    words, frozen = frozen.words, replace(frozen, words=None)
    odds = np.zeros((len(y_dev), len(labels))) if words is None else words.at(1.0).logits(count_words(dev_texts))
    best = _stage(0, 0.0, frozen.logits(features[held_out]), odds, y_dev)
    stages = [best]

    encoder = Encoder(folder, device, torch.float32)
    classifier = _classifier(frozen, device)
    keep = start = _copy(encoder.model, classifier)
    layers = _layers(encoder.model)
    counts = list(dict.fromkeys(min(count, len(layers)) for count in recipe.unfreeze_stages))
    path = None if state is None else state / "checkpoint.safetensors"
    resumed = None if path is None else load_point(path, device)
    if resumed is not None:
        stages = [best, *(Stage(**stage) for stage in resumed.stages)]
        if resumed.stages:
            best, keep = min(stages, key=lambda stage: stage.loss), resumed.keep
        _put((encoder.model, classifier), resumed.now, resumed.now, 1.0)
        say(f"going on with the top {counts[len(resumed.stages)]} layers after step {resumed.step}")
    for count in counts[len(stages) - 1 :]:
        groups = _trainable(encoder.model, layers, count, classifier, recipe)
        save = partial(save_point, path, (encoder.model, classifier), [asdict(stage) for stage in stages[1:]], keep)
        _train_stage(encoder, classifier, groups, train_texts, y_train, recipe, count, resumed, save)
        resumed = None
        end = _copy(encoder.model, classifier)
        tried = []
        for way in WAYS:
            _put((encoder.model, classifier), start, end, way)
            tried.append(_stage(count, way, _logits(encoder, classifier, dev_texts), odds, y_dev))
        stage = min(tried, key=lambda stage: stage.loss)
        stages.append(stage)
        say(
            f"top {count} layers, {stage.way:.0%} of the way: {stage.correct} of {len(dev_texts)} dev answers right, loss {stage.loss:.3f}"
            f" (before: {best.correct}, {best.loss:.3f})"
        )
        if stage.loss >= best.loss:
            break
        _put((encoder.model, classifier), start, end, stage.way)
        best, keep = stage, _copy(encoder.model, classifier)
        # The next stage goes on from where training ended.
        _put((encoder.model, classifier), start, end, 1.0)
    _put((encoder.model, classifier), keep, keep, 1.0)
    head = frozen if best.layers == 0 else _head(labels, classifier)
    if best.layers:
        together = _logits(encoder, classifier, dev_texts) + best.words * odds
        read = None if words is None or not best.words else words.at(best.words)
        head = replace(head, temperature=fit_temperature(together, y_dev), words=read)
    return Unfrozen(encoder, head, tuple(stages), best, len(dev_texts))


def _train_stage(
    encoder: Encoder,
    classifier: nn.Linear,
    groups: list[dict[str, Any]],
    texts: Sequence[str],
    y: Labels,
    recipe: HeadRecipe,
    stage: int,
    resumed: Point | None,
    save: Callable[[Any, int], None],
) -> None:
    """All epochs of one stage, or what is left of them after the step `resumed` stands at."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    peaks = [group["lr"] for group in optimizer.param_groups]
    if resumed is not None:
        resumed.restore(optimizer)
    parameters = [p for group in groups for p in group["params"]]
    device = classifier.weight.device
    targets = torch.from_numpy(y).to(device)
    steps = math.ceil(len(texts) / recipe.unfreeze_batch_rows) * recipe.unfreeze_epochs
    done, first = 0, 0 if resumed is None else resumed.step
    saved_at = time.monotonic()
    encoder.model.train()
    with interruptible() as stop_asked, progress(f"training the top {stage} layers", steps, "steps") as advance:
        advance(first)
        for epoch in range(recipe.unfreeze_epochs):
            for rows in _batches(texts, recipe.unfreeze_batch_rows, recipe.seed + 1000 * stage + epoch):
                if done < first:
                    done += 1
                    continue
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * min((done + 1) / (0.1 * steps + 1), (steps - done) / (0.9 * steps))
                torch.manual_seed(recipe.seed * 1_000_003 + stage * 100_003 + done)
                logits = _forward(encoder, classifier, [texts[i] for i in rows])
                loss = cross_entropy(logits, targets[rows], label_smoothing=recipe.unfreeze_smoothing)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                advance(1)
                stopping = stop_asked()
                if stopping or time.monotonic() - saved_at > recipe.checkpoint_seconds:
                    save(optimizer, done)
                    saved_at = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
    encoder.model.eval()


def _batches(texts: Sequence[str], size: int, seed: int) -> list[list[int]]:
    """Every text once, in batches of texts of like length (an encoder pads its batches), shuffled by `seed`."""
    rng = random.Random(seed)
    order = rng.sample(range(len(texts)), len(texts))
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lambda i: len(texts[i]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches


def _forward(encoder: Encoder, classifier: nn.Linear, texts: Sequence[str]) -> torch.Tensor:
    device = classifier.weight.device
    inputs = {k: v.to(device) if torch.is_tensor(v) else v for k, v in encoder.model.preprocess(list(texts)).items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
        features = encoder.model(inputs)["sentence_embedding"]
    logits: torch.Tensor = classifier(features.float())
    return logits


def _logits(encoder: Encoder, classifier: nn.Linear, texts: Sequence[str]) -> Logits:
    encoder.model.eval()
    with torch.inference_mode():
        parts = [_forward(encoder, classifier, texts[i : i + 64]).cpu() for i in range(0, len(texts), 64)]
    return np.asarray(torch.cat(parts).double().numpy())


def _classifier(head: Head, device: torch.device) -> nn.Linear:
    """The logistic head, calibrated, as a torch layer."""
    layer = nn.Linear(head.weight.shape[1], head.weight.shape[0], device=device)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight / head.temperature))
        layer.bias.copy_(torch.from_numpy(head.bias / head.temperature))
    return layer


def _layers(model: nn.Module) -> list[nn.Module]:
    """The encoder's transformer layers, bottom first: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [*max((list(layers) for layers in lists), key=len)]


def _trainable(
    model: nn.Module, layers: Sequence[nn.Module], count: int, classifier: nn.Linear, recipe: HeadRecipe
) -> list[dict[str, Any]]:
    """Optimizer groups: the head, then the top `count` layers with falling rates; all else is frozen."""
    model.requires_grad_(False)
    rate = recipe.unfreeze_learning_rate
    groups: list[dict[str, Any]] = [{"params": list(classifier.parameters()), "lr": rate * HEAD_RATE}]
    for depth, layer in enumerate(list(reversed(layers))[:count]):
        layer.requires_grad_(True)
        groups.append({"params": list(layer.parameters()), "lr": rate * recipe.unfreeze_decay**depth})
    return groups


def _stage(layers: int, way: float, logits: Logits, odds: Logits, y: Labels) -> Stage:
    words, together = add_words(logits, odds, y)
    return Stage(layers, int((together.argmax(axis=1) == y).sum()), way, calibrated_loss(together, y), words)


def _head(labels: tuple[str, ...], classifier: nn.Linear) -> Head:
    weight, bias = (p.detach().float().cpu().numpy().copy() for p in (classifier.weight, classifier.bias))
    return Head(labels, weight, bias)


def _put(modules: Sequence[nn.Module], start: States, end: States, way: float) -> None:
    """Give `modules` the weights `way` of the way from `start` to `end`."""
    for module, before, after in zip(modules, start, end, strict=True):
        mixed = {
            name: torch.lerp(before[name], value, way) if value.is_floating_point() else value
            for name, value in after.items()
        }
        module.load_state_dict(mixed)


def _copy(*modules: nn.Module) -> States:
    return [{name: value.detach().clone() for name, value in module.state_dict().items()} for module in modules]

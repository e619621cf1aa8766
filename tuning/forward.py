"""Loss of a batch, computed where there is something to learn and only there.

Three savings against the usual forward pass, all exact:
- Rows stand one after the other in a single sequence, each seeing only itself: no padding.
- The tokens that all rows begin with (system prompt, template) stand there once, seen by all, and the gradient flows
  back through them from all. Short rows under a long system prompt cost a fraction.
- The vocabulary's logits are computed at supervised positions only. With 49,152 words and answers of a few tokens, the
  others are most of the memory and a third of the time of a small model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tuning.examples import Example


@dataclass(frozen=True)
class Loss:
    total: torch.Tensor
    """Sum over the supervised tokens, nats, in fp32; carries the gradient."""
    tokens: int
    exact: int
    """Rows whose every supervised token is the most probable one: what greedy decoding would answer word for word."""


class SupervisedModel:
    """A causal language model, asked for the loss of examples."""

    def __init__(self, model: Any, prefix: Sequence[int] = (), noise: float = 0.0) -> None:
        """
        Args:
            model: a transformers causal model, or the one inside a PEFT model.
            prefix: token ids with which every example begins, and which are run once; () to run each row whole.
            noise: NEFTune's alpha: while training, noise of up to alpha / sqrt(tokens * hidden size) on each row's
                input embeddings.
        """
        self._noise = noise
        self._model = model
        self._head = model.get_output_embeddings()
        self._prefix = tuple(prefix)

    @property
    def prefix(self) -> int:
        """Tokens that are run once for all rows of a batch."""
        return len(self._prefix)

    @property
    def device(self) -> torch.device:
        return self._model.device  # type: ignore[no-any-return]

    def can_pack(self, longest: int) -> bool:
        """Whether rows of up to `longest` tokens can stand in one sequence.

        Every layer must attend by the mask alone, as one with recurrent state does not. A sliding window does no harm
        where it is as wide as the longest row.
        """
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        def attends(layer: Any) -> bool:
            if isinstance(layer, DynamicSlidingWindowLayer):
                return bool(layer.sliding_window >= longest)
            return type(layer) is DynamicLayer

        return all(attends(layer) for layer in DynamicCache(config=self._model.config).layers)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradient and no dropout in the block."""
        self._model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.train()

    def loss(self, examples: Sequence[Example]) -> Loss:
        logits, expected, rows_wanted = self._supervised(examples)
        wrong = (logits.detach().argmax(-1) != expected).tolist()
        missed = {row for row, is_wrong in zip(rows_wanted, wrong, strict=True) if is_wrong}
        return Loss(cross_entropy(logits, expected, reduction="sum"), len(expected), len(examples) - len(missed))

    def row_losses(self, examples: Sequence[Example]) -> list[float]:
        """Loss of each example: the sum over its supervised tokens, nats."""
        logits, expected, rows_wanted = self._supervised(examples)
        sums = [0.0] * len(examples)
        for row, loss in zip(rows_wanted, cross_entropy(logits, expected, reduction="none").tolist(), strict=True):
            sums[row] += loss
        return sums

    def _supervised(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Of each supervised token: logits in fp32 [tokens, vocabulary], id, and the example it is in."""
        device = self._model.device
        ids = list(self._prefix)
        positions = list(range(self.prefix))
        row_of = [-1] * self.prefix
        wanted: list[int] = []
        rows_wanted: list[int] = []
        targets: list[int] = []
        for row, example in enumerate(examples):
            start = len(ids) - self.prefix
            # The token before predicts it, so what is wanted stands one place earlier than what is supervised.
            wanted += range(start + example.prompt - 1, start + len(example.ids) - 1)
            rows_wanted += [row] * example.supervised
            targets += example.ids[example.prompt :]
            ids += example.ids[self.prefix :]
            positions += range(self.prefix, len(example.ids))
            row_of += [row] * (len(example.ids) - self.prefix)
        inputs = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "attention_mask": self._mask(torch.tensor(row_of)) if len(examples) > 1 else None,
        }
        scale = torch.tensor([len(examples[max(row, 0)].ids) for row in row_of], device=device)
        with _only(self._head, torch.tensor(wanted, device=device)), self._noisy(scale):
            logits = self._model(**inputs, use_cache=False).logits[0].float()
        return logits, torch.tensor(targets, device=device), rows_wanted

    @contextmanager
    def _noisy(self, row_tokens: torch.Tensor) -> Iterator[None]:
        """Within the block the embeddings of a training model carry noise; `row_tokens` is each token's row's length."""
        if not (self._noise and self._model.training):
            yield
            return

        def add(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            scale = self._noise / (row_tokens * output.shape[-1]).sqrt()
            return output + torch.empty_like(output).uniform_(-1, 1) * scale[:, None].to(output.dtype)

        handle = self._model.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def _mask(self, row_of: torch.Tensor) -> torch.Tensor:
        """What is added to the attention scores, [1, 1, tokens, tokens]: each token sees the prefix (row -1) and, of
        its own row, what came before it."""
        size = len(row_of)
        sees = (row_of[:, None] == row_of[None, :]) | (row_of[None, :] == -1)
        sees &= torch.ones(size, size, dtype=torch.bool).tril()
        mask = torch.zeros(size, size, dtype=self._model.dtype).masked_fill_(~sees, torch.finfo(self._model.dtype).min)
        return mask[None, None].to(self._model.device)


@contextmanager
def _only(head: torch.nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the output layer sees the `wanted` positions only: [1, positions, hidden] instead of [1, tokens,
    hidden]. What a model does to its logits afterwards (scaling, soft caps) stays in force."""
    handle = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, wanted],))
    try:
        yield
    finally:
        handle.remove()

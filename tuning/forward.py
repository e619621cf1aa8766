"""Loss of a batch, computed where there is something to learn and only there.

Two savings against the usual forward pass, both exact:
- The vocabulary's logits are computed at supervised positions only. With 49,152 words and answers of a few tokens,
  the others are most of the memory and a third of the time of a small model.
- The tokens that all rows begin with (system prompt, template) run once a batch; the rows attend to their keys and
  values, and the gradient flows back through them. Short rows under a long system prompt cost a fraction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tuning.examples import Example

SHORT = 512
"""Up to this many tokens a row, plain attention beats torch's blocked one on a CPU (1.35 times the tokens/s at 60
tokens, equal at 512); beyond, its squared memory costs more (2,048 tokens: a third of the speed)."""


@dataclass(frozen=True)
class Loss:
    total: torch.Tensor
    """Sum over the supervised tokens, nats, in fp32; carries the gradient."""
    tokens: int
    exact: int
    """Rows whose every supervised token is the most probable one: what greedy decoding would answer word for word."""


class SupervisedModel:
    """A causal language model, asked for the loss of examples."""

    def __init__(self, model: Any, prefix: Sequence[int], pad: int) -> None:
        """
        Args:
            model: a transformers causal model, or the one inside a PEFT model.
            prefix: token ids with which every example begins; () to run each row whole.
        """
        self._model = model
        self._body = getattr(model, model.base_model_prefix)
        self._head = model.get_output_embeddings()
        self._prefix = tuple(prefix)
        self._pad = pad

    @property
    def prefix(self) -> int:
        """Tokens that are run once for all rows of a batch."""
        return len(self._prefix)

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
        device = self._model.device
        width = max(len(example.ids) for example in examples) - self.prefix
        ids = torch.full((len(examples), width), self._pad)
        labels = torch.full((len(examples), width), -100)
        for row, example in enumerate(examples):
            tokens = torch.tensor(example.ids[self.prefix :])
            ids[row, : len(tokens)] = tokens
            # The token before predicts it, so a label stands one place earlier than its token.
            first = example.prompt - self.prefix
            labels[row, first - 1 : len(tokens) - 1] = tokens[first:]
        wanted = labels != -100
        targets = labels[wanted].to(device)
        # Padding is on the right: no position that counts can see it, so no mask is needed.
        with _only(self._head, wanted.to(device)):
            logits = self._model(input_ids=ids.to(device), **self._cache(len(examples))).logits
        logits = logits.float()
        wrong = (logits.detach().argmax(-1) != targets).cpu()
        row_of = torch.arange(len(examples))[:, None].expand_as(wanted)[wanted]
        exact = len(examples) - len(set(row_of[wrong].tolist()))
        return Loss(cross_entropy(logits, targets, reduction="sum"), len(targets), exact)

    def _cache(self, rows: int) -> dict[str, Any]:
        """Keys and values of the prefix, once for each row, with their gradient."""
        if not self._prefix:
            return {"use_cache": False}
        from transformers import DynamicCache

        cache = DynamicCache()
        self._body(
            input_ids=torch.tensor([self._prefix], device=self._model.device), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(rows)
        return {"past_key_values": cache, "use_cache": True}


def can_share_prefix(config: Any) -> bool:
    """Whether every layer of the model keeps plain keys and values: no sliding window, no recurrent state."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@contextmanager
def _only(head: torch.nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the output layer sees the `wanted` positions only: [positions, hidden] instead of [rows, width,
    hidden]. What a model does to its logits afterwards (scaling, soft caps) stays in force."""
    handle = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][wanted],))
    try:
        yield
    finally:
        handle.remove()

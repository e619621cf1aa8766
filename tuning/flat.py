"""All trainable weights as one vector: fp32 for the optimizer, the model's own type for the model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class FlatWeights:
    """Trainable parameters of a model, backed by one vector, with fp32 master weights and AdamW on those.

    A LoRA adapter is hundreds of small matrices, a model is that many large ones. As views of one vector they are clipped, stepped and saved by one
    operation each. The model computes in bf16, where an update of a thousandth of a weight would round away; the fp32
    masters keep it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self._parameters = list(parameters)
        first = self._parameters[0]
        size = sum(p.numel() for p in self._parameters)
        self._weights = torch.empty(size, dtype=first.dtype, device=first.device)
        self._gradient = torch.zeros_like(self._weights)
        start = 0
        for p in self._parameters:
            end = start + p.numel()
            self._weights[start:end] = p.detach().reshape(-1)
            p.data = self._weights[start:end].view_as(p)
            p.grad = self._gradient[start:end].view_as(p)
            start = end
        self.master = self._weights.float().clone()
        self.master.grad = torch.zeros_like(self.master)
        self._optimizer = torch.optim.AdamW([self.master], lr=0.0, weight_decay=weight_decay, fused=True)
        # One step with zero gradient and zero rate makes the moments, so that a checkpoint can be read into them.
        self._optimizer.step()
        self._state["step"].zero_()

    @property
    def size(self) -> int:
        return self.master.numel()

    @property
    def gradient(self) -> torch.Tensor:
        """What the step has collected, in fp32."""
        assert self.master.grad is not None
        return self.master.grad

    def collect(self) -> None:
        """Add the gradient of a backward pass to the step's, in fp32, and clear it in the model."""
        self.gradient.add_(self._gradient)
        self._gradient.zero_()

    def step(self, learning_rate: float, max_norm: float) -> float:
        """One AdamW step on the collected gradient, clipped to `max_norm`; the gradient's norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_([self.master], max_norm))
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self.gradient.zero_()
        self._weights.copy_(self.master)
        return norm

    def put(self, weights: torch.Tensor) -> None:
        """Replace the weights by `weights`, a vector like `master`."""
        with torch.no_grad():
            self.master.copy_(weights)
            self._weights.copy_(self.master)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of all that a resumed training needs."""
        parts = {"weights": self.master, **{key: self._state[key] for key in ("exp_avg", "exp_avg_sq", "step")}}
        return {key: value.detach().clone().cpu() for key, value in parts.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.put(state["weights"])
        for key in ("exp_avg", "exp_avg_sq", "step"):
            self._state[key].copy_(state[key])

    @property
    def _state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self._optimizer.state[self.master]
        return state

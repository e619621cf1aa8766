"""The frozen weights of a LoRA training shared out: of each layer a process keeps its part (FSDP, ZeRO stage 3).

What learns is small and stays whole in every process, its gradients added up as without sharding. What is frozen is most
of the memory: a layer's weights are put together when the layer runs, and dropped again after it, forward and backward.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pydantic import BaseModel

from core.errors import ConfigError
from tuning.processes import Team
from tuning.recipe import LoraRecipe


def check_sharding(recipe: BaseModel, team: Team) -> None:
    """Raises ConfigError where sharding is asked for what it does not work with."""
    if not team.shards:
        return
    if team.size == 1:
        raise ConfigError(
            "--shard shares a model out over several processes; start them by torchrun or accelerate launch"
        )
    if not isinstance(recipe, LoraRecipe):
        raise ConfigError("--shard is for --method lora: it shares out weights that do not learn")
    if recipe.bits == 4 or recipe.dora:
        raise ConfigError(f"--shard does not go with {'--bits 4' if recipe.bits == 4 else '--dora'}")


def shard_layers(causal: Any, learning: Collection[torch.nn.Parameter], device: torch.device, size: int) -> int:
    """Share out the frozen weights of the decoder layers of `causal` over `size` processes; how many layers there are.

    Embeddings, output layer and the weights in `learning` stay whole. On a GPU only the shares ever get there, not the
    whole model.

    Raises:
        ConfigError: the model does not say which of its modules are its layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kinds = set(causal._no_split_modules or ())
    layers = [module for module in causal.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ConfigError(f"{type(causal).__name__} does not say what its layers are; train it without --shard")
    mesh = init_device_mesh(device.type, (size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=set(learning))
    causal.to(device)
    return len(layers)

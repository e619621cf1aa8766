"""`tunefork estimate`: memory, time, data and money of a remedy, before anything is downloaded or run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from advisor.estimate import METHODS, TARGETS, Dtype, Method, Plan, Targets
from advisor.estimate_document import document
from advisor.hardware import find_gpu
from advisor.model_shape import ModelShape
from advisor.shape_files import resolve, shape_from_path
from advisor.shape_numbers import shape_from_numbers
from core.errors import ConfigError

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_MOST = 1e18


@click.command("estimate")
@click.option(
    "--model", metavar="M", help="A known name (Llama-3-8B, a hub id, a starter), a model folder, or a GGUF file."
)
@click.option("--config", metavar="FILE", help="A hub-style config.json.")
@click.option("--params", metavar="N", help="Plain numbers: parameters, as 7e9 or 7B.")
@click.option("--layers", type=int, metavar="N", help="With --params: layers.")
@click.option("--hidden", type=int, metavar="N", help="With --params: hidden size.")
@click.option("--heads", type=int, metavar="N", help="With --params: attention heads.")
@click.option("--kv-heads", type=int, metavar="N", help="With --params: key-value heads.")
@click.option("--vocab", type=int, metavar="N", help="With --params: vocabulary.")
@click.option("--intermediate", type=int, metavar="N", help="With --params: width of the MLP.")
@click.option("--method", type=click.Choice(METHODS), required=True, help="What is to be done with the model.")
@click.option("--rank", type=int, default=16, show_default=True, help="Rank of the adapter.")
@click.option("--targets", type=click.Choice(tuple(TARGETS)), default="all", show_default=True, help="Adapted layers.")
@click.option("--batch", type=int, default=4, show_default=True, help="Sequences at once.")
@click.option("--seq-len", type=int, default=1024, show_default=True, help="Tokens of a sequence.")
@click.option("--dtype", type=click.Choice(("bf16", "fp32")), default="bf16", show_default=True, help="Of the weights.")
@click.option(
    "--bits", type=int, help="Of the base's linear layers: 4, 8 or 16.  [default: 4 for qlora, else by --dtype]"
)
@click.option("--checkpointing/--no-checkpointing", default=True, show_default=True, help="Recompute activations.")
@click.option("--labels", type=int, default=100, show_default=True, help="Classes of a head.")
@click.option("--tokens", metavar="N", help="Tokens to train on, all epochs together (inference, rag: to generate).")
@click.option("--gpu", metavar="NAME", help="A card, as L4 or RTX-4090, or cpu for this machine: gives time and money.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    model: str | None,
    config: str | None,
    params: str | None,
    layers: int | None,
    hidden: int | None,
    heads: int | None,
    kv_heads: int | None,
    vocab: int | None,
    intermediate: int | None,
    method: Method,
    rank: int,
    targets: Targets,
    batch: int,
    seq_len: int,
    dtype: Dtype,
    bits: int | None,
    checkpointing: bool,
    labels: int,
    tokens: str | None,
    gpu: str | None,
    as_json: bool,
) -> None:
    """Memory, time, data and money of a remedy. Needs no weights and no network.

    Name the model by --model, --config or --params.
    """
    numbers = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "vocab": vocab,
        "intermediate": intermediate,
    }
    plan = Plan(method, rank, targets, batch, seq_len, dtype, bits, checkpointing, labels)
    shape = _shape(model, config, params, numbers)
    result = document(
        shape, plan, None if tokens is None else _number("--tokens", tokens), None if gpu is None else find_gpu(gpu)
    )
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
        return
    from advisor.estimate_text import print_estimate

    print_estimate(result)


def _shape(model: str | None, config: str | None, params: str | None, numbers: dict[str, int | None]) -> ModelShape:
    ways = {"--model": model, "--config": config, "--params": params}
    used = [flag for flag, value in ways.items() if value is not None]
    if not used:
        raise ConfigError("which model? give --model NAME, --config config.json or --params 7e9")
    if len(used) > 1:
        raise ConfigError(f"{' and '.join(used)} each name a model; give one of them")
    extra = {f"--{name.replace('_', '-')}": value for name, value in numbers.items() if value is not None}
    if params is None and extra:
        raise ConfigError(f"{', '.join(extra)} only goes with --params; {used[0]} has its own shape")
    for flag, value in extra.items():
        if value < 1:
            raise ConfigError(f"{flag} {value} must be a whole number of at least 1")
    if model is not None:
        return resolve(model)
    if config is not None:
        return shape_from_path(Path(config).expanduser())
    return shape_from_numbers(round(_number("--params", params or "")), **numbers)


def _number(flag: str, text: str) -> float:
    """A count such as 7e9, 7000000000, 7_000_000_000, 7B or 350M.

    Raises:
        ConfigError: not a number of at least 1, or absurdly large.
    """
    cleaned = text.strip().lower().replace("_", "").replace(",", "")
    factor = _SUFFIXES.get(cleaned[-1:], 1.0)
    try:
        value = float(cleaned[:-1] if factor > 1 else cleaned) * factor
    except ValueError:
        value = math.nan
    if not 1 <= value <= _MOST:
        raise ConfigError(f"{flag} {text!r} is not a count of at least 1; write it as 7e9, 7B or 7000000000")
    return value

"""The estimate for a person: components, rules beside them, what fits where, time and money."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.figures import cores

_METHOD_NAMES = {"inference": "inference", "qlora": "QLoRA", "lora": "LoRA", "full": "full"}
_COMPONENTS = {
    "weights": "weights of the base model",
    "adapter": "trained weights, gradients, optimiser",
    "activations": "activations kept, caches",
    "logits": "logits and their gradient",
    "runtime": "runtime and allocator",
}


def print_estimate(document: dict[str, Any]) -> None:
    """Print the document of `advisor.estimate_document` to stdout."""
    # soft_wrap: a pipe gets whole lines, a terminal wraps by itself.
    out = Console(highlight=False, soft_wrap=True)
    settings, used = document["settings"], document["memory_gb"]
    words = [f"batch {settings['batch']}", f"length {settings['seq_len']}", settings["dtype"]]
    if document["method"] in ("lora", "qlora"):
        words.insert(0, f"rank {settings['rank']} on {settings['targets']}")
    if settings["bits"] in (4, 8):
        words.append(f"{settings['bits']}-bit base")
    if document["method"] in ("full", "lora", "qlora"):
        words.append("checkpointing" if settings["checkpointing"] else "no checkpointing")
    out.print(f"[bold]{escape(document['model'])}[/], {document['method']}: {', '.join(words)}")
    out.print(f"{document['params']:,} parameters, {document['trainable_params']:,} trained")
    table = Table("memory", "GB", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, value in used["components"].items():
        if value >= 0.005:
            table.add_row(_COMPONENTS[name], f"{value:.2f}")
    table.add_row("[bold]together[/]", f"[bold]{used['mid']:.2f}[/]")
    table.add_row("range", f"{used['low']:.2f} - {used['high']:.2f}")
    out.print(table)
    _print_beside(document, out)
    _print_fits(document, out)
    if document["kv_bytes_per_token"]:
        out.print(f"key-value cache: {document['kv_bytes_per_token']:,} bytes a token")
    need = document["data"]
    if need:
        out.print(f"data: {need['low']:,} / {need['mid']:,} / {need['high']:,} {need['unit']} ({need['source']})")
    if document["time_s"] is not None:
        money = "" if document["usd"] is None else f", ${document['usd']:,.2f}"
        cards = "" if document["gpus"] == 1 else f"{document['gpus']} x "
        out.print(
            f"time for {document['tokens']:.3g} tokens on {cards}{document['gpu']}: {_duration(document['time_s'])}{money}"
        )
    for note in document["notes"]:
        out.print(f"note: {escape(note)}", style="dim")


def _print_beside(document: dict[str, Any], out: Console) -> None:
    rules = document["rules"]
    figures = f"{rules['2.5x']:.3g} GB"
    if rules["2.5x"] != rules["2.5x_fp32"]:
        figures += f" by the 16-bit bytes, {rules['2.5x_fp32']:.3g} GB by the fp32 bytes"
    out.print(f"rule of thumb, 2.5 x the model's bytes: {figures} ({document['rules_fit']})")
    published = document["published"]
    if published:
        out.print(
            f"published for {published['model']} ({published['task']}): {published['hardware']};"
            f" {published['data']} ({published['fits']})"
        )


def _print_fits(document: dict[str, Any], out: Console) -> None:
    table: dict[str, dict[str, str]] = document["fits_by_method"]
    names = _METHOD_NAMES | {"lora": "LoRA 16-bit" if document["settings"]["dtype"] == "bf16" else "LoRA fp32"}
    for size in document["fits"]:
        answers = [f"{names[method]} {by_size[size]}" for method, by_size in table.items()]
        if document["method"] not in table:
            mid = "no" if not document["fits"][size] else "tight" if size in document["tight"] else "yes"
            answers.insert(0, f"{document['method']} {mid}")
        out.print(f"{size} GB: {', '.join(answers)}")
    machine = document["machine"]
    verdict = "fits" if machine["fits"] else "does not fit"
    out.print(
        f"this machine ({cores(machine['cores'])}, {machine['ram_gb']:.0f} GB of memory):"
        f" {document['method']} {verdict}, peak about {machine['memory_gb']:.1f} GB"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.1f} days"

"""`tunefork tune NAME`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from core.errors import ConfigError, DataError
from core.files import write_json
from core.progress import say
from core.workspace import open_workspace

_SETTINGS = {
    "lora": {
        "epochs": "epochs",
        "lr": "learning_rate",
        "rank": "rank",
        "max_seconds": "max_seconds",
        "skip_long": "skip_long",
    },
    "head": {"unfreeze": "unfreeze"},
}
"""Flags that only one method has, and what they are called in its recipe."""


@click.command("tune")
@click.argument("name")
@click.option("--train", type=click.Path(path_type=Path), help="Rows to learn from; remembered.")
@click.option("--method", type=click.Choice(["lora", "head"]), help="Default: head for a closed label set, else lora.")
@click.option("--base-model", metavar="M", help="Model to adapt (lora); remembered.")
@click.option("--embedding-model", metavar="M", help="Sentence encoder under the head; remembered.")
@click.option("--epochs", type=float, help="Times each row is seen (lora).")
@click.option("--lr", type=float, help="Peak learning rate (lora).")
@click.option("--rank", type=int, help="Rank of the adapter (lora).")
@click.option("--max-seconds", type=float, help="Plan no more steps than fit this time (lora).")
@click.option("--skip-long", is_flag=True, default=None, help="Leave out rows longer than the context (lora).")
@click.option("--unfreeze", is_flag=True, default=None, help="Train the encoder's top layers too (head).")
@click.option("--max-rows", type=int, help="Train on that many rows, drawn by the seed.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=int, help="Of every draw; remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(name: str, as_json: bool, method: str | None, **given: Any) -> None:
    """Train an adapter or a head for use case NAME and put it in force.

    The result is a new version in the use case's adapters, served as NAME:tune. A training that was stopped or killed
    goes on where it stopped when the same command runs again.
    """
    from core.jobs import job
    from core.labels import closed_labels
    from core.rows import read_rows
    from tuning.train import train_head, train_lora

    workspace = open_workspace()
    remembered = ("train", "base_model", "embedding_model", "seed")
    folder, settings = workspace.declare(name, {key: given[key] for key in remembered})
    if settings.train is None:
        raise DataError(
            f"use case {settings.name!r} has no training rows; run: tunefork tune {settings.name} --train F"
        )
    rows = read_rows(settings.train, "training")
    labels = closed_labels(rows)
    if method is None:
        method = "lora" if labels is None else "head"
        why = "the answers are free text" if labels is None else f"the answers are a closed set of {len(labels)} labels"
        say(f"method: {method}, because {why} (--method lora|head overrules)")
    recipe = _recipe(method, given, settings.seed)

    with folder.lock("tune"):
        run = folder.new_run("tune")
        config = {"method": method, "settings": settings.model_dump(mode="json"), "recipe": recipe.model_dump()}
        with job(run, config):
            with folder.adapters.build() as staging:
                train: Any = train_head if method == "head" else train_lora
                report = train(staging, settings, workspace, rows, recipe, source=settings.train)
            version = folder.adapters.newest()
            assert version is not None
            folder.adapters.activate(version)
            document = report.to_json() | {"folder": str(folder.adapters.folder / version), "version": version}
            write_json(run / "report.json", document)
    for warning in report.warnings:
        say(f"warning: {warning}")
    click.echo(json.dumps(document, ensure_ascii=False) if as_json else _summary(settings.name, document))


def _recipe(method: str, given: dict[str, Any], seed: int) -> Any:
    """The recipe of `method` with the flags that were given. Raises ConfigError for a flag of the other method."""
    from tuning.recipe import HeadRecipe, LoraRecipe, parse_recipe

    for other, names in _SETTINGS.items():
        unused = next((flag for flag in names if other != method and given[flag] is not None), None)
        if unused is not None:
            raise ConfigError(f"--{unused.replace('_', '-')} is for --method {other}; the method here is {method}")
    values = {key: given[flag] for flag, key in _SETTINGS[method].items()}
    values |= {"max_rows": given["max_rows"], "device": given["device"], "seed": seed}
    return parse_recipe(HeadRecipe if method == "head" else LoraRecipe, values)


def _summary(name: str, document: dict[str, Any]) -> str:
    scores = document["scores"]
    accuracy = scores.get("cross_validated_accuracy")
    lines = [
        f"tuned {name}: {document['method']} {document['version']} on {document['base_model']}, {document['rows']} rows,"
        f" {document['train_s']:.0f} s"
    ]
    if accuracy is not None:
        lines.append(
            f"  right in cross-validation: {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%},"
            f" n = {accuracy['n']}), {scores['labels']} labels"
        )
    if scores.get("dev_exact") is not None:
        lines.append(
            f"  dev rows answered word for word: {scores['dev_exact']:.0%} of {document['dev_rows']};"
            f" {scores['tokens_per_s']:.0f} tokens/s"
        )
    lines.append(f"next:  tunefork serve, then ask for model '{name}:tune'")
    return "\n".join(lines)

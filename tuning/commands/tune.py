"""`tunefork tune NAME`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import ConfigError, DataError
from core.files import write_json
from core.progress import say
from core.workspace import UseCaseFolder, Workspace, open_workspace

if TYPE_CHECKING:
    from core.rows import Row
    from core.settings import UseCase
    from tuning.context import Supplier

_SETTINGS = {
    "lora": {
        "epochs": "epochs",
        "lr": "learning_rate",
        "rank": "rank",
        "max_seconds": "max_seconds",
        "skip_long": "skip_long",
        "dora": "dora",
        "rslora": "rslora",
        "pissa": "pissa",
        "neftune": "neftune",
    },
    "head": {
        "unfreeze": "unfreeze",
        "task": "task",
        "features": "features",
        "precision": "precision",
        "abstain_below": "abstain_below",
        "abstain_answer": "abstain_answer",
    },
}
"""Flags that only one method has, and what they are called in its recipe."""


def tune_command(supplier: Supplier | None) -> click.Command:
    """The command; `supplier` finds passages for `--context`, which a room that knows an index gives."""

    @click.command("tune")
    @click.argument("name")
    @click.option("--train", type=click.Path(path_type=Path), help="Rows to learn from; remembered.")
    @click.option(
        "--method", type=click.Choice(["lora", "head"]), help="Default: head for a closed label set, else lora."
    )
    @click.option("--check", is_flag=True, help="Report on the training rows and stop; trains nothing.")
    @click.option("--base-model", metavar="M", help="Model to adapt (lora); remembered.")
    @click.option("--embedding-model", metavar="M", help="Sentence encoder under the head; remembered.")
    @click.option("--epochs", type=float, help="Times each row is seen (lora).")
    @click.option("--lr", type=float, help="Peak learning rate (lora).")
    @click.option("--rank", type=int, help="Rank of the adapter (lora).")
    @click.option("--max-seconds", type=float, help="Plan no more steps than fit this time (lora).")
    @click.option("--skip-long", is_flag=True, default=None, help="Leave out rows longer than the context (lora).")
    @click.option("--context", is_flag=True, help="Train on rows that show passages, as retrieval will (lora).")
    @click.option("--gold-share", type=float, help="With --context: share of rows that show their gold passage (0.8).")
    @click.option("--cite", is_flag=True, help="With --context: answers name the gold passage, as in [2].")
    @click.option("--dora", is_flag=True, default=None, help="DoRA; has to be merged to be served (lora).")
    @click.option("--rslora", is_flag=True, default=None, help="Scale by 1/sqrt(rank), for high ranks (lora).")
    @click.option("--pissa", is_flag=True, default=None, help="Start from the weights' main directions (lora).")
    @click.option("--neftune", type=float, metavar="ALPHA", help="Noise on the embeddings while training, as 5 (lora).")
    @click.option(
        "--task", type=click.Choice(["single", "multi", "number"]), help="What a head answers; default single."
    )
    @click.option("--features", type=click.Choice(["encoder", "base"]), help="What a head reads; default encoder.")
    @click.option("--unfreeze", is_flag=True, default=None, help="Train the encoder's top layers too (head).")
    @click.option("--abstain-below", type=float, metavar="P", help="Abstain where no label is as probable (head).")
    @click.option(
        "--precision", type=float, metavar="P", help="Abstain so often that this share of labels is right (head)."
    )
    @click.option("--abstain-answer", metavar="TEXT", help="What an abstaining head says.")
    @click.option("--max-rows", type=int, help="Train on that many rows, drawn by the seed.")
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
    @click.option("--seed", type=int, help="Of every draw; remembered.")
    @click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
    def command(name: str, as_json: bool, method: str | None, check: bool, **given: Any) -> None:
        """Train an adapter or a head for use case NAME and put it in force.

        The training rows are checked first; what is wrong with them stops the training, what is odd is said. The
        result is a new version in the use case's adapters, served as NAME:tune. A training that was stopped or killed
        goes on where it stopped when the same command runs again.
        """
        workspace = open_workspace()
        remembered = ("train", "base_model", "embedding_model", "seed")
        folder, settings = workspace.declare(name, {key: given[key] for key in remembered})
        if settings.train is None:
            raise DataError(
                f"use case {settings.name!r} has no training rows; run: tunefork tune {settings.name} --train F"
            )
        method, recipe = _method(settings.train, method, given, settings.seed)
        if check:
            _check(folder, settings, workspace, recipe, as_json)
            return
        document = _tune(folder, settings, workspace, method, recipe, given, supplier)
        click.echo(json.dumps(document, ensure_ascii=False) if as_json else _summary(settings.name, document))

    return command


command = tune_command(None)


def _check(folder: UseCaseFolder, settings: UseCase, workspace: Workspace, recipe: Any, as_json: bool) -> None:
    """Print the report on the training rows. Raises DataError when they cannot be trained on."""
    from tuning.data_report import check_training_data, refuse_errors, summary

    assert settings.train is not None
    report, _ = check_training_data(settings.train, folder, settings, workspace, recipe)
    click.echo(json.dumps(report.to_json(), ensure_ascii=False) if as_json else summary(report))
    refuse_errors(report, settings.train)


def _tune(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    method: str,
    recipe: Any,
    given: dict[str, Any],
    supplier: Supplier | None,
) -> dict[str, Any]:
    from core.jobs import job
    from tuning.cost import check_memory
    from tuning.data_report import check_training_data, refuse_errors, summary
    from tuning.run_page import write_run_page
    from tuning.train import train_head, train_lora

    assert settings.train is not None
    with folder.lock("tune"):
        run = folder.new_run("tune")
        config = {"method": method, "settings": settings.model_dump(mode="json"), "recipe": recipe.model_dump()}
        with job(run, config):
            checked, rows = check_training_data(settings.train, folder, settings, workspace, recipe)
            write_json(run / "data.json", checked.to_json())
            say(summary(checked))
            refuse_errors(checked, settings.train)
            if checked.cost is not None and checked.tokens is not None:
                check_memory(checked.cost, checked.tokens.longest)
            notes: dict[str, Any] = {}
            if given["context"]:
                rows, notes = _with_context(folder, settings, workspace, rows, given, supplier)
            with folder.adapters.build() as staging:
                if method == "head":
                    report = train_head(staging, settings, workspace, rows, recipe, source=settings.train)
                else:
                    report = train_lora(staging, settings, workspace, rows, recipe, source=settings.train, notes=notes)
                write_run_page(run, settings.name, report, staging / "metrics.jsonl")
            version = folder.adapters.newest()
            assert version is not None
            folder.adapters.activate(version)
            document = report.to_json() | {"folder": str(folder.adapters.folder / version), "version": version}
            write_json(run / "report.json", document)
    for warning in report.warnings:
        say(f"warning: {warning}")
    return document


def _with_context(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    rows: Sequence[Row],
    given: dict[str, Any],
    supplier: Supplier | None,
) -> tuple[list[Row], dict[str, Any]]:
    """The rows with passages before their questions, and what origin.json should say of that."""
    from core.prompts import grounded
    from tuning.context import ContextRecipe, Supplied, context_rows, own_passages
    from tuning.recipe import parse_settings

    supplied = supplier(folder, settings, workspace, rows) if supplier is not None else None
    if supplied is None:
        supplied = Supplied(own_passages(rows), grounded)
    recipe = parse_settings(
        ContextRecipe, {"gold_share": given["gold_share"], "cite": given["cite"] or None, "seed": settings.seed}
    )
    made = context_rows(rows, supplied.passages, recipe, supplied.ground)
    say(
        f"{made.with_gold} of {len(rows)} rows show their gold passage; for {made.without_known_gold} none is known"
        " that holds the answer"
    )
    if made.with_gold < 0.4 * len(rows):
        say("warning: fewer than 40 % of the rows show a gold passage; mark it with `context_ids` or `context`")
    return made.rows, {"context": recipe.model_dump() | {"with_gold": made.with_gold}}


def _method(train: Path, method: str | None, given: dict[str, Any], seed: int) -> tuple[str, Any]:
    """The method (said where it was not asked for), and its recipe with the flags that were given."""
    from core.labels import closed_labels
    from core.rows import sift_rows

    for flag in ("gold_share", "cite"):
        if given[flag] and not given["context"]:
            raise ConfigError(f"--{flag.replace('_', '-')} needs --context")
    if given["context"]:
        if method == "head":
            raise ConfigError("--context is for --method lora; a head reads the question alone")
        method = "lora"
    if method is None and given["task"] in ("multi", "number"):
        method = "head"
    if method is None:
        labels = closed_labels(sift_rows(train, "training")[0])
        method = "lora" if labels is None else "head"
        why = "the answers are free text" if labels is None else f"the answers are a closed set of {len(labels)} labels"
        say(f"method: {method}, because {why} (--method lora|head overrules)")
    return method, _recipe(method, given, seed)


def _recipe(method: str, given: dict[str, Any], seed: int) -> Any:
    """The recipe of `method` with the flags that were given. Raises ConfigError for a flag of the other method."""
    from tuning.recipe import HeadRecipe, LoraRecipe, parse_settings

    for other, names in _SETTINGS.items():
        unused = next((flag for flag in names if other != method and given[flag] is not None), None)
        if unused is not None:
            raise ConfigError(f"--{unused.replace('_', '-')} is for --method {other}; the method here is {method}")
    values = {key: given[flag] for flag, key in _SETTINGS[method].items()}
    values |= {"max_rows": given["max_rows"], "device": given["device"], "seed": seed}
    return parse_settings(HeadRecipe if method == "head" else LoraRecipe, values)


def _summary(name: str, document: dict[str, Any]) -> str:
    scores = document["scores"]
    lines = [
        f"tuned {name}: {document['method']} {document['version']} on {document['base_model']}, {document['rows']} rows,"
        f" {document['train_s']:.0f} s"
    ]
    accuracy = scores.get("cross_validated_accuracy")
    if accuracy is not None:
        what = "label sets right" if scores.get("task") == "multi" else "right"
        lines.append(
            f"  {what} in cross-validation: {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%},"
            f" n = {accuracy['n']}), {scores['labels']} labels"
        )
    if scores.get("mean_absolute_error") is not None:
        lines.append(
            f"  mean error in cross-validation: {scores['mean_absolute_error']:.3g} (always the mean:"
            f" {scores['baseline_error']:.3g}, n = {scores['judged']})"
        )
    if scores.get("abstains") is not None:
        lines.append(
            f"  abstains below {scores['abstain_below']:.2f}: answers {1 - scores['abstains']:.0%} of the rows,"
            f" {scores['precision']:.1%} of those right"
        )
    if scores.get("dev_exact") is not None:
        lines.append(
            f"  dev rows answered word for word: {scores['dev_exact']:.0%} of {document['dev_rows']};"
            f" {scores['tokens_per_s']:.0f} tokens/s"
        )
    lines.append(f"next:  tunefork serve, then ask for model '{name}:tune'")
    return "\n".join(lines)

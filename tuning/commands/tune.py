"""`tunefork tune NAME`"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import ConfigError, DataError
from core.files import write_json
from core.progress import say
from core.workspace import UseCaseFolder, Workspace, open_workspace
from tuning.shown import Shown, shown_rows
from tuning.tune_flags import SETTINGS, chosen_recipe, flag_names

if TYPE_CHECKING:
    from core.settings import UseCase
    from tuning.context import Supplier
    from tuning.processes import Team
    from tuning.tracking import Track, Tracker
    from tuning.train import TrainReport


def tune_command(supplier: Supplier | None) -> click.Command:
    """The command; `supplier` finds passages for `--context`, which a room that knows an index gives."""

    @click.command("tune")
    @click.argument("name")
    @click.option("--train", type=click.Path(path_type=Path), help="Rows to learn from; remembered.")
    @click.option(
        "--method", type=click.Choice(["lora", "head", "full"]), help="Default: head for closed labels, else lora."
    )
    @click.option("--check", is_flag=True, help="Report on the training rows and stop; trains nothing.")
    @click.option("--base-model", metavar="M", help="Model to adapt (lora, full); remembered.")
    @click.option("--embedding-model", metavar="M", help="Sentence encoder under the head; remembered.")
    @click.option("--epochs", type=float, help="Times each row is seen (lora, full).")
    @click.option("--lr", type=float, help="Peak learning rate (lora, full).")
    @click.option("--batch-rows", type=int, help="Rows a step, over all processes (lora, full).")
    @click.option("--rank", type=int, help="Rank of the adapter (lora).")
    @click.option("--max-seconds", type=float, help="Plan no more steps than fit this time (lora, full).")
    @click.option("--skip-long", is_flag=True, default=None, help="Leave out rows longer than the context.")
    @click.option(
        "--gradient-checkpointing", is_flag=True, default=None, help="A third slower in less memory (lora, full)."
    )
    @click.option("--bits", type=click.Choice([4, 16]), help="4: QLoRA, the base in 4 bits while training (lora).")
    @click.option(
        "--init",
        type=click.Choice(["pissa", "loftq"]),
        help="Start from the weights' main directions, or what 4 bits lose (lora).",
    )
    @click.option("--context", is_flag=True, help="Train on rows that show passages, as retrieval will (lora, full).")
    @click.option("--gold-share", type=float, help="With --context: share of rows that show their gold passage (0.8).")
    @click.option("--cite", is_flag=True, help="With --context: answers name the gold passage, as in [2].")
    @click.option(
        "--preferences", type=click.Path(path_type=Path), help="Pairs of better and worse answers to learn from (DPO)."
    )
    @click.option("--dora", is_flag=True, default=None, help="DoRA; has to be merged to be served (lora).")
    @click.option("--rslora", is_flag=True, default=None, help="Scale by 1/sqrt(rank), for high ranks (lora).")
    @click.option("--neftune", type=float, metavar="ALPHA", help="Noise on the embeddings while training, as 5.")
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
    @click.option("--shard", is_flag=True, help="Of several processes, each holds a part of the frozen weights (lora).")
    @click.option("--max-rows", type=int, help="Train on that many rows, drawn by the seed.")
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
    @click.option("--seed", type=int, help="Of every draw; remembered.")
    @click.option(
        "--track", type=click.Choice(["tensorboard", "mlflow"]), help="Write the run's metrics there too, as they come."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
    def command(name: str, as_json: bool, method: str | None, check: bool, **given: Any) -> None:
        """Train an adapter, a head or all weights for use case NAME and put it in force.

        The training rows are checked first; what is wrong with them stops the training, what is odd is said. The
        result is a new version in the use case's adapters, served as NAME:tune. A training that was stopped or killed
        goes on where it stopped when the same command runs again.
        """
        from tuning.processes import team

        with team(given["device"] or "auto", given["shard"]) as processes:
            workspace = open_workspace()
            remembered = ("train", "base_model", "embedding_model", "seed")
            _check_names(workspace, name, given)
            folder, settings = workspace.proposed(name, {key: given[key] for key in remembered})
            if given["preferences"] is not None:
                _alone(processes, "--preferences")
                document = _prefer(folder, settings, workspace, method, given)
                click.echo(json.dumps(document, ensure_ascii=False) if as_json else _summary(settings.name, document))
                return
            if settings.train is None:
                raise DataError(
                    f"use case {settings.name!r} has no training rows; run: tunefork tune {settings.name} --train F"
                )
            method, recipe = chosen_recipe(settings.train, method, given, settings.seed)
            _check_sharding(recipe, processes)
            shown = shown_rows(folder, settings, workspace, given, supplier)
            if check:
                _alone(processes, "--check")
                _check(folder, settings, workspace, recipe, shown, as_json)
                folder.remember_first(settings)
                return
            if not processes.leads:
                _follow(folder, settings, workspace, recipe, shown, processes)
                return
            if method == "head":
                _alone(processes, "--method head")
            document = _tune(folder, settings, workspace, method, recipe, shown, processes, given["track"])
            click.echo(json.dumps(document, ensure_ascii=False) if as_json else _summary(settings.name, document))

    return command


command = tune_command(None)


def _check_names(workspace: Workspace, name: str, given: dict[str, Any]) -> None:
    """Before anything is remembered: a mistyped file or model would stay with the use case.

    Raises:
        DataError: the training rows are not there.
        ConfigError: no model has that name.
    """
    from core.models import gguf_file, local_folder, remote

    if given["train"] is not None and not given["train"].is_file():
        there = "is a folder" if given["train"].is_dir() else "there is no such file"
        raise DataError(there, given["train"])
    for model in (given["base_model"], given["embedding_model"]):
        if model is not None and remote(model) is None and gguf_file(model) is None:
            local_folder(model, workspace.models)


def _check_sharding(recipe: Any, processes: Team) -> None:
    """Before the rows are read, which takes longer than to see that the flags do not go together."""
    if processes.shards:
        from tuning.sharded import check_sharding

        check_sharding(recipe, processes)


def _alone(processes: Team, flag: str) -> None:
    """Raises ConfigError where several processes were started for what one does."""
    if processes.size > 1:
        raise ConfigError(f"{flag} runs in one process, not in {processes.size}; start it without a launcher")


def _follow(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, recipe: Any, shown: Shown | None, processes: Team
) -> None:
    """Compute this process's share of a training that the first process leads; writes nothing."""
    from tuning.data_report import check_training_data, refuse_errors
    from tuning.train import train_lora

    assert settings.train is not None
    checked, rows = check_training_data(settings.train, folder, settings, workspace, recipe, shown)
    refuse_errors(checked, settings.train)
    train_lora(folder.adapters.folder, settings, workspace, rows, recipe, source=settings.train, team=processes)


def _check(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, recipe: Any, shown: Shown | None, as_json: bool
) -> None:
    """Print the report on the training rows. Raises DataError when they cannot be trained on."""
    from tuning.data_report import check_training_data, refuse_errors, summary

    assert settings.train is not None
    report, _ = check_training_data(settings.train, folder, settings, workspace, recipe, shown)
    click.echo(json.dumps(report.to_json(), ensure_ascii=False) if as_json else summary(report))
    refuse_errors(report, settings.train)


def _tune(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    method: str,
    recipe: Any,
    shown: Shown | None,
    processes: Team,
    tracker: Tracker | None,
) -> dict[str, Any]:
    from core.jobs import job
    from tuning.cost import check_memory
    from tuning.data_report import check_training_data, refuse_errors, summary
    from tuning.train import train_head, train_lora

    assert settings.train is not None
    with folder.lock("tune"):
        run = folder.new_run("tune")
        config = {"method": method, "settings": settings.model_dump(mode="json"), "recipe": recipe.model_dump()}
        with job(run, config):
            checked, rows = check_training_data(settings.train, folder, settings, workspace, recipe, shown)
            write_json(run / "data.json", checked.to_json())
            say(summary(checked))
            refuse_errors(checked, settings.train)
            folder.remember(settings)
            if checked.cost is not None and checked.tokens is not None:
                check_memory(checked.cost, checked.tokens.longest)
            notes = {} if shown is None else {"context": shown.notes}

            def train(target: Path, track: Track) -> TrainReport:
                if method == "head":
                    return train_head(target, settings, workspace, rows, recipe, source=settings.train)
                more: dict[str, Any] = {"source": settings.train, "notes": notes, "team": processes, "track": track}
                return train_lora(target, settings, workspace, rows, recipe, **more)

            recorded = {"method": method, **recipe.model_dump(mode="json")}
            return _version(folder, settings, workspace, run, tracker, recorded, train)


def _prefer(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, method: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    from core.jobs import job
    from tuning.device import pick_device
    from tuning.preferences import DpoRecipe, read_preferences, train_preferences
    from tuning.recipe import parse_recipe

    if method not in (None, "lora"):
        raise ConfigError("--preferences is for --method lora")
    known = {"epochs": "epochs", "lr": "learning_rate", "rank": "rank", "max_rows": "max_rows", "device": "device"}
    foreign = [flag for names in SETTINGS.values() for flag in names if flag not in known and given[flag] is not None]
    if foreign:
        in_head = foreign[0] in SETTINGS["head"]
        owner = "--method head" if in_head else "training rows, not for --preferences"
        raise ConfigError(f"--{foreign[0].replace('_', '-')} is for {owner}")
    values = {key: given[flag] for flag, key in known.items()} | {"seed": settings.seed}
    recipe = parse_recipe(DpoRecipe, values, flag_names(known))
    if recipe.device == "cuda":
        pick_device("cuda")
    pairs = read_preferences(given["preferences"])
    folder.remember(settings)
    with folder.lock("tune"):
        run = folder.new_run("tune")
        config = {"method": "lora", "settings": settings.model_dump(mode="json"), "recipe": recipe.model_dump()}
        with job(run, config):

            def train(target: Path, track: Track) -> TrainReport:
                source = given["preferences"]
                return train_preferences(target, settings, workspace, pairs, recipe, source=source, track=track)

            recorded = {"method": "dpo", **recipe.model_dump(mode="json")}
            return _version(folder, settings, workspace, run, given["track"], recorded, train)


def _version(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    run: Path,
    tracker: Tracker | None,
    recorded: dict[str, Any],
    train: Callable[[Path, Track], TrainReport],
) -> dict[str, Any]:
    """What `train` makes becomes a new version and takes over; returns what the run's report.json then says.

    Args:
        recorded: what the tracker is told of the training.
    """
    from tuning.run_page import write_run_page
    from tuning.tracking import track_scores, tracking

    with (
        folder.adapters.build() as staging,
        tracking(tracker, run, f"{settings.name}/{run.name}", recorded, workspace.path) as track,
    ):
        report = train(staging, track)
        track_scores(track, report.scores)
        write_run_page(run, settings.name, report, staging / "metrics.jsonl")
    version = folder.adapters.newest()
    assert version is not None
    folder.adapters.activate(version)
    document: dict[str, Any] = report.to_json() | {
        "folder": str(folder.adapters.folder / version),
        "version": version,
    }
    write_json(run / "report.json", document)
    for warning in report.warnings:
        say(f"warning: {warning}")
    return document


def _summary(name: str, document: dict[str, Any]) -> str:
    from tuning.lint import UNSERVABLE

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
    if scores.get("dev_preferred") is not None:
        lines.append(
            f"  held-out pairs for which it moved towards the chosen answer: {scores['dev_preferred']['value']:.0%} of"
            f" {document['dev_rows']}"
        )
    if any(warning.startswith(UNSERVABLE) for warning in document["warnings"]):
        lines.append(f"next:  tunefork export {name} --merge FOLDER")
    else:
        lines.append(f"next:  tunefork serve, then ask for model '{name}:tune'")
    return "\n".join(lines)

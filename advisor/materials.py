"""What a use case brings to the bench: rows, training rows, documents, scorer, form; checked before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.checks import Finding, check_data, together
from advisor.form import FormSpec, learn_form
from advisor.infer import infer_scorer
from advisor.labelled import Labelled, read_labelled
from advisor.plan import Means
from advisor.scorers.base import Scorer
from core.errors import ConfigError, DataError
from core.files import sha256_file
from core.labels import closed_labels, head_task
from core.models import remote
from core.prompts import own_context
from core.rows import Row, read_rows
from core.settings import UseCase


@dataclass(frozen=True)
class Materials:
    rows: tuple[Row, ...]
    train: tuple[Row, ...]
    scorer: Scorer
    form: FormSpec
    labels: tuple[str, ...] | None
    findings: tuple[Finding, ...]
    hashes: dict[str, str]
    """sha256 of each data file, by its role."""
    labelled: tuple[Labelled, ...] = ()
    """Answers with a person's label, that a judge is measured on."""

    def means(self, settings: UseCase) -> Means:
        """What the plan needs to know of them."""
        return Means(
            documents=bool(settings.docs),
            train_rows=len(self.train),
            labels=head_task(self.train) is not None,
            answer_format=bool(self.form.answer_format()),
            local_base=remote(settings.base_model) is None,
            gold_passages=any(row.context for row in self.rows),
            own_context=2 * sum(own_context(row.input) is not None for row in self.rows) > len(self.rows),
        )


def gather(settings: UseCase) -> Materials:
    """Read and check what `settings` names.

    Raises:
        ConfigError: no eval set, or no such file or document.
        DataError: a row cannot be used, or the training file is the eval file.
    """
    if settings.eval is None:
        raise ConfigError(f"use case {settings.name!r} has no eval set; give --eval FILE or `eval = ...` in its TOML")
    for path in settings.docs:
        if not path.exists() and not _is_glob(path):
            raise ConfigError(f"docs: {path} does not exist; give a file or folder that does (--docs PATH)")
    rows = read_rows(settings.eval, "evaluation")
    train = read_rows(settings.train, "training") if settings.train is not None else []
    hashes = {"eval": sha256_file(settings.eval)}
    if settings.train is not None:
        hashes["train"] = sha256_file(settings.train)
        _refuse_the_same(settings.eval, settings.train, hashes)
    scored = together([row for row in rows if row.answers or not row.answerable])
    form = learn_form(train, settings.refusals)
    scorer = infer_scorer(rows, train, settings.scorer)
    findings = check_data(rows, train, corpus=None, refusals=settings.refusals)
    labelled: list[Labelled] = []
    if settings.judge is not None and settings.judge.labelled is not None:
        labelled = read_labelled(settings.judge.labelled, rows)
        hashes["labelled"] = sha256_file(settings.judge.labelled)
    labels = closed_labels(train)
    return Materials(tuple(scored), tuple(train), scorer, form, labels, tuple(findings), hashes, tuple(labelled))


def _refuse_the_same(evaluation: Path, training: Path, hashes: dict[str, str]) -> None:
    if hashes["eval"] == hashes["train"]:
        raise DataError(
            f"is the same as the eval set {evaluation}: a model trained on it would only repeat it; split the rows",
            training,
        )


def _is_glob(path: Path) -> bool:
    return any(char in str(path) for char in "*?[")


def answer_budget(rows: Sequence[Row], train: Sequence[Row], count_tokens: object) -> int:
    """Tokens an answer may take: twice the longest gold answer plus 16, between 32 and 512."""
    assert callable(count_tokens)
    golds = {answer for row in (*rows, *train[:500]) for answer in row.answers[:1]}
    longest = max((count_tokens(gold) for gold in sorted(golds, key=len)[-50:]), default=0)
    return max(32, min(512, 2 * longest + 16))
